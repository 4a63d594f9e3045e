"""Alpaca: an instruction, perhaps an input to it, and the output.

`input` follows the instruction after a line break, and `history` holds earlier turns as [question, answer] pairs, as
LLaMA-Factory reads them, so that the same file gives the same conversation.
"""

from __future__ import annotations

from typing import Any

from sartor.errors import FieldError
from sartor.formats import Parsed, fields
from sartor.formats.turns import Turn, conversation
from sartor.types import Json, Message, Source

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
    others = {"messages", "chosen", "rejected", "kto_tag"}
    return "instruction" in row and "output" in row and not others & row.keys()


def parse(row: Json, source: Source) -> Parsed:
    """One conversation: system, history, instruction and input, output.

    Raises:
        FieldError: a field is missing, empty or of another type.
    """
    question = "\n".join(part for part in (fields.text(row, "instruction"), fields.optional(row, "input")) if part)
    if not question.strip():
        raise FieldError("instruction", seen=fields.seen(row["instruction"]), expected="a text with something in it")
    turns = [Turn("instruction", Message(role="user", content=question))]
    turns.append(Turn("output", Message(role="assistant", content=fields.filled(row, "output"))))
    system = fields.optional(row, "system")
    first = [Turn("system", Message(role="system", content=system))] if system else []
    return conversation((*first, *_history(row), *turns), (), source)


def _history(row: Json) -> list[Turn]:
    turns = []
    for index, pair in enumerate(fields.items(row, "history", of="[question, answer] pairs")):
        place = f"history[{index}]"
        turns.append(Turn(f"{place}[0]", Message(role="user", content=_said(pair, place, 0))))
        turns.append(Turn(f"{place}[1]", Message(role="assistant", content=_said(pair, place, 1))))
    return turns


def _said(pair: Any, place: str, side: int) -> str:
    if not isinstance(pair, list) or len(pair) != 2:
        raise FieldError(place, seen=fields.seen(pair), expected="a pair [question, answer]")
    return fields.filled({"said": pair[side]}, "said", f"{place}[{side}]")
