"""Alpaca: an instruction, perhaps an input to it, and the output. `instructions` says how its parts are joined."""

from __future__ import annotations

from sartor.errors import FieldError
from sartor.formats import Change, Parsed, Written, fields
from sartor.formats.instructions import asked
from sartor.formats.keys import RATING, lacks
from sartor.formats.turns import LEADING, Turn, conversation
from sartor.formats.writing import as_chat, refuse_calls, without, written
from sartor.types import Example, Json, Message, Source

WRITES = True
SUMMARY = "instruction, input, output: one question and its answer, with earlier turns in history"
FIELDS: tuple[str, ...] = ("instruction", "input", "output", "system", "history")
SAMPLE: Json = {
    "instruction": "Translate to French.",
    "input": "good morning",
    "output": "bonjour",
    "system": "You are a translator.",
    "history": [["Are you ready?", "Yes."]],
}


def matches(row: Json) -> bool:
    return "instruction" in row and "output" in row and lacks(row, "messages", *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """One conversation: system, history, instruction and input, output.

    Raises:
        FieldError: a field is missing, empty or of another type.
    """
    answer = Turn("output", Message(role="assistant", content=fields.filled(row, "output")))
    return conversation((*asked(row), answer), (), source)


def write(example: Example) -> Written:
    """System, history, instruction and output.

    Raises:
        FieldError: the example has tool calls, or turns that are not questions and answers by turns.
    """
    chat, left_out = as_chat(example)
    refuse_calls(chat.messages)
    start = int(chat.messages[0].role in LEADING)
    turns = chat.messages[start:]
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        roles = ", ".join(message.role for message in chat.messages[:8])
        raise FieldError("messages", seen=f"the roles {roles}", expected="questions and answers by turns")
    row: Json = {"instruction": turns[-2].content, "input": "", "output": turns[-1].content}
    if start:
        row["system"] = chat.messages[0].content
    if turns[2:]:
        row["history"] = [[turns[at].content, turns[at + 1].content] for at in range(0, len(turns) - 2, 2)]
    tools = [Change("tools", "tools_left_out", f"{len(chat.tools)} tools that nobody calls")] if chat.tools else []
    developer = [Change("messages[0].role", "developer_as_system", "")] if chat.messages[0].role == "developer" else []
    return written(row, left_out, without(chat.messages, "reasoning", "name", "weight"), tools, developer)
