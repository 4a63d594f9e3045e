"""Exact duplicates: the first stays, to the letter."""

from __future__ import annotations

from sartor.data.clean import Context
from sartor.data.clean.exact_duplicates import Config, clean
from sartor.types import Chat, Example, Message, Source, Text


def chat(line: int, question: str, answer: str) -> Chat:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Chat(source=Source(file="rows.jsonl", line=line), messages=turns)


ROWS: list[Example] = [
    chat(1, "One?", "1"),
    chat(2, "One?", "one"),
    chat(3, "One?", "1"),
    chat(4, "one?", "1"),
    Text(source=Source(file="rows.jsonl", line=5), text="One?"),
    Text(source=Source(file="rows.jsonl", line=6), text="One?"),
]


def told(**options: str) -> dict[int, str]:
    outcomes = clean(iter(ROWS), Config.model_validate(options), Context())
    return {entry.line: entry.detail for outcome in outcomes for entry in outcome.entries}


def test_the_same_to_the_letter() -> None:
    assert told() == {3: "the same as rows.jsonl:1", 6: "the same as rows.jsonl:5"}


def test_the_same_question() -> None:
    asked = {2: "asks the same as rows.jsonl:1", 3: "asks the same as rows.jsonl:1", 6: "asks the same as rows.jsonl:5"}
    assert told(of="question") == asked
