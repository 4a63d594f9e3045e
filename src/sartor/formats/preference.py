"""Preferences: two answers to one prompt, `chosen` the better one, as TRL, Anthropic and LLaMA-Factory write them.

Where there is no prompt of its own, `chosen` and `rejected` are whole conversations that differ in their last answer:
lists of messages, or texts with Anthropic's marks `Human:` and `Assistant:`.
"""

from __future__ import annotations

from sartor.errors import FieldError
from sartor.formats import Parsed, Written, answers
from sartor.formats.answers import read_asked, read_said
from sartor.formats.keys import lacks
from sartor.formats.speakers import read_tools
from sartor.formats.turns import under_system
from sartor.formats.writing import message_row, rounded, with_tools, written
from sartor.types import Example, Json, Pair, Source

WRITES = True
SUMMARY = "chosen and rejected: two answers to one prompt, the better and the worse"
FIELDS: tuple[str, ...] = (*answers.FIELDS, "chosen", "rejected")
SAMPLE: Json = {
    "prompt": [{"role": "user", "content": "Name the capital of France."}],
    "chosen": [{"role": "assistant", "content": "Paris."}],
    "rejected": [{"role": "assistant", "content": "France is a country."}],
}


def matches(row: Json) -> bool:
    return "chosen" in row and "rejected" in row and lacks(row)


def parse(row: Json, source: Source) -> Parsed:
    """One pair.

    Raises:
        FieldError: a side is missing or malformed, the two are the same, they differ before their last answer, or there
            are two system prompts.
    """
    before = read_asked(row)
    if before and before[-1].message.role == "assistant":
        raise FieldError(before[-1].place, seen="an answer", expected="a turn that is answered")
    chosen, rejected = (under_system(row, read_said(row, key, before)) for key in ("chosen", "rejected"))
    if [turn.message for turn in chosen[:-1]] != [turn.message for turn in rejected[:-1]]:
        raise FieldError("rejected", seen="another conversation than in `chosen`", expected="another last answer only")
    if chosen[-1].message == rejected[-1].message:
        raise FieldError("rejected", seen="the same answer as in `chosen`", expected="a worse one")
    return Parsed(
        Pair(
            source=source,
            prompt=tuple(turn.message for turn in chosen[:-1]),
            chosen=chosen[-1].message,
            rejected=rejected[-1].message,
            tools=read_tools(row),
        )
    )


def write(example: Example) -> Written:
    """Three lists of messages, as TRL writes them.

    Raises:
        FieldError: the example is no pair.
    """
    if not isinstance(example, Pair):
        raise FieldError(
            "rejected", seen=f"an example of the kind {example.kind}", expected="a better and a worse answer"
        )
    prompt = [message_row(message) for message in example.prompt]
    row: Json = {"prompt": prompt, "chosen": [message_row(example.chosen)], "rejected": [message_row(example.rejected)]}
    return written(with_tools(row, example.tools), rounded((*example.prompt, example.chosen, example.rejected)))
