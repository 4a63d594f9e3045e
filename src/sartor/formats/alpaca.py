"""Alpaca: an instruction, perhaps an input to it, and the output. `instructions` says how its parts are joined."""

from __future__ import annotations

from sartor.formats import Parsed, fields
from sartor.formats.instructions import asked
from sartor.formats.keys import RATING, lacks
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
    return "instruction" in row and "output" in row and lacks(row, "messages", *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """One conversation: system, history, instruction and input, output.

    Raises:
        FieldError: a field is missing, empty or of another type.
    """
    answer = Turn("output", Message(role="assistant", content=fields.filled(row, "output")))
    return conversation((*asked(row), answer), (), source)
