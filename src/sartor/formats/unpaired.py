"""Rated answers, one a row, for KTO: TRL's `completion` with a `label`, LLaMA-Factory's turns with `kto_tag`."""

from __future__ import annotations

from sartor.errors import FieldError
from sartor.formats import Parsed, Written, answers, fields
from sartor.formats.answers import read_asked, read_said
from sartor.formats.keys import lacks
from sartor.formats.speakers import read_tools
from sartor.formats.turns import conversation, under_system
from sartor.formats.writing import message_row, rounded, with_tools, written
from sartor.types import Chat, Example, Json, Source, Unpaired

WRITES = True
SUMMARY = "an answer with label (or kto_tag) true or false: one that somebody liked, or did not"
FIELDS: tuple[str, ...] = (*answers.FIELDS, "completion", "output", "label", "kto_tag")
SAMPLE: Json = {"prompt": "Name the capital of France.", "completion": "France is a country.", "label": False}

_RATINGS = ("label", "kto_tag")
_ANSWERS = ("completion", "output")


def matches(row: Json) -> bool:
    rated = any(key in row for key in _RATINGS)
    return rated and _answers(row) and lacks(row, "chosen", "rejected")


def _answers(row: Json) -> bool:
    return "messages" in row or "conversations" in row or any(key in row for key in _ANSWERS)


def parse(row: Json, source: Source) -> Parsed:
    """One rated answer.

    Raises:
        FieldError: the answer, what it answers or its rating is missing or malformed, or there are two system prompts.
    """
    rating, *more = [key for key in _RATINGS if key in row] or ["label"]
    if more:
        raise FieldError(more[0], seen=f"both `{rating}` and `{more[0]}`", expected="one of them")
    good = fields.flag(row, rating)
    turns = read_asked(row)
    tools = read_tools(row)
    if row.get("messages") is None and row.get("conversations") is None:
        turns = read_said(row, "output" if row.get("instruction") is not None else "completion", turns)
    if not turns:
        raise FieldError("prompt", seen=fields.seen(row), expected="what was asked")
    talk = conversation(under_system(row, turns), tools, source)
    assert isinstance(talk.example, Chat)
    prompt, answer = talk.example.prompt, talk.example.messages[-1]
    return Parsed(Unpaired(source=source, prompt=prompt, answer=answer, good=good, tools=tools), talk.changes)


def write(example: Example) -> Written:
    """Prompt and completion as lists of messages, and the label, as TRL writes them.

    Raises:
        FieldError: the example has no rating.
    """
    if not isinstance(example, Unpaired):
        raise FieldError("label", seen=f"an example of the kind {example.kind}", expected="an answer with a rating")
    prompt = [message_row(message) for message in example.prompt]
    row: Json = {"prompt": prompt, "completion": [message_row(example.answer)], "label": example.good}
    return written(with_tools(row, example.tools), rounded((*example.prompt, example.answer)))
