"""Prompt and completion: two texts, or two lists of messages as TRL writes them."""

from __future__ import annotations

from sartor.errors import FieldError
from sartor.formats import Change, Parsed, Written, fields
from sartor.formats.calls import read_tools
from sartor.formats.keys import RATING, lacks
from sartor.formats.turns import Turn, conversation, read_turns, under_system
from sartor.formats.writing import as_chat, message_row, rounded, with_tools, written
from sartor.types import Chat, Example, Json, Message, Source

WRITES = True
SUMMARY = "prompt and completion: two texts, or two lists of messages"
FIELDS: tuple[str, ...] = ("prompt", "completion", "system", "tools")
SAMPLE: Json = {"prompt": "The capital of France is", "completion": " Paris."}


def matches(row: Json) -> bool:
    """TRL's rows with a `label` say whether the completion was good: they must not be imitated unseen."""
    return "prompt" in row and "completion" in row and lacks(row, "messages", "instruction", *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """One user turn and its answer. Of two lists of messages only the completion's answers are trained, as in TRL.

    Raises:
        FieldError: a side is missing, empty, or of another type than the other, or there are two system prompts.
    """
    if isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list):
        asked, answered = read_turns(row, "prompt"), read_turns(row, "completion")
        if answered[0].message.role != "assistant":
            role = answered[0].message.role
            raise FieldError("completion[0].role", seen=fields.seen(role), expected='"assistant"')
        turns = (*(_context(turn) for turn in asked), *answered)
    else:
        turns = (
            Turn("prompt", Message(role="user", content=fields.filled(row, "prompt"))),
            Turn("completion", Message(role="assistant", content=fields.filled(row, "completion"))),
        )
    return conversation(under_system(row, turns), read_tools(row), source)


def _context(turn: Turn) -> Turn:
    if turn.message.role != "assistant":
        return turn
    return Turn(turn.place, turn.message.model_copy(update={"weight": 0.0}))


def write(example: Example) -> Written:
    """Two texts for a question and its answer, two lists of messages for any other conversation.

    Raises:
        FieldError: the example is running text, or an answer that is not to be imitated.
    """
    chat, left_out = as_chat(example)
    rows = [message_row(message) for message in chat.messages]
    if [row["role"] for row in rows] == ["user", "assistant"] and all(len(row) == 2 for row in rows):
        row: Json = {"prompt": chat.messages[0].content, "completion": chat.target}
    else:
        row = {"prompt": rows[:-1], "completion": rows[-1:]}
    return written(with_tools(row, chat.tools), left_out, rounded(chat.messages), _untrained(chat))


def _untrained(chat: Chat) -> list[Change]:
    return [
        Change(f"messages[{index}].weight", "answer_as_context", "an earlier answer is no longer trained")
        for index, message in enumerate(chat.prompt)
        if message.role == "assistant" and message.weight
    ]
