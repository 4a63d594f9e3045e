"""Rows for the tests of cleaners that look at one at a time, and what became of them."""

from __future__ import annotations

from typing import Any

from sartor.data.clean import Context, Outcome, cleaner
from sartor.types import Chat, Example, Message, Source, Text


def talk(answer: str, question: str = "What is it?", line: int = 1) -> Chat:
    """One question and its answer."""
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Chat(source=Source(file="rows.jsonl", line=line), messages=turns)


def text(written: str) -> Text:
    return Text(source=Source(file="a.txt", line=1), text=written)


def outcomes(name: str, rows: list[Example], context: Context | None = None, **config: Any) -> list[Outcome]:
    member = cleaner(name)
    return list(member.clean(rows, member.Config.model_validate(config), context or Context()))


def reasons(name: str, row: Example, **config: Any) -> list[str]:
    """What the ledger says of one row."""
    (outcome,) = outcomes(name, [row], **config)
    return [entry.reason for entry in outcome.entries]


def answer(name: str, row: Chat, **config: Any) -> str:
    """The answer of one row as it goes on."""
    (outcome,) = outcomes(name, [row], **config)
    assert isinstance(outcome.example, Chat)
    return outcome.example.target
