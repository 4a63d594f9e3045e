"""ShareGPT: a list of turns, each with `from` and `value`. `speakers` says how one is read."""

from __future__ import annotations

from sartor.formats import Parsed
from sartor.formats.keys import RATING, lacks
from sartor.formats.speakers import read_speakers, read_tools
from sartor.formats.turns import conversation
from sartor.types import Json, Source

SUMMARY = "conversations of from and value, as ShareGPT and LLaMA-Factory write them: tools, calls, observations"
FIELDS: tuple[str, ...] = ("conversations", "system", "tools")
SAMPLE: Json = {
    "conversations": [
        {"from": "human", "value": "Will it rain in Rome?"},
        {"from": "function_call", "value": '{"name": "forecast", "arguments": {"city": "Rome"}}'},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "No, it stays sunny."},
    ],
    "system": "You plan trips.",
    "tools": '[{"name": "forecast", "description": "The weather of tomorrow.", "parameters": {"type": "object"}}]',
}


def matches(row: Json) -> bool:
    return "conversations" in row and lacks(row, "messages", *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """One conversation.

    Raises:
        FieldError: a turn is malformed, the turns are out of order, or nobody answers.
    """
    return conversation(read_speakers(row), read_tools(row), source)
