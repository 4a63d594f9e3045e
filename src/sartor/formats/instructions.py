"""What an Alpaca row asks: an instruction, perhaps an input to it, a system prompt and earlier turns.

`input` follows the instruction after a line break, and `history` holds earlier turns as [question, answer] pairs, as
LLaMA-Factory reads them, so that the same file gives the same conversation.
"""

from __future__ import annotations

from typing import Any

from sartor.errors import FieldError
from sartor.formats import fields
from sartor.formats.turns import Turn, under_system
from sartor.types import Json, Message

FIELDS: tuple[str, ...] = ("instruction", "input", "system", "history")


def asked(row: Json) -> tuple[Turn, ...]:
    """The turns before the answer: system, history, instruction and input.

    Raises:
        FieldError: a field is missing, empty or of another type.
    """
    question = "\n".join(part for part in (fields.text(row, "instruction"), fields.optional(row, "input")) if part)
    if not question.strip():
        raise FieldError("instruction", seen=fields.seen(row["instruction"]), expected="a text with something in it")
    return under_system(row, (*_history(row), Turn("instruction", Message(role="user", content=question))))


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
