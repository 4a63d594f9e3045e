"""Near duplicates: told apart by numbers and labels, and not by what all rows have in common."""

from __future__ import annotations

from typing import Any

from sartor.data.clean import Context
from sartor.data.clean.near_duplicates import Config, clean
from sartor.types import Chat, Example, Message, Source, Text

STORY = "The quick brown fox jumps over the lazy dog near the river bank every single day of the long hot summer"


def chat(line: int, question: str, answer: str = "yes") -> Chat:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Chat(source=Source(file="rows.jsonl", line=line), messages=turns)


def told(rows: list[Example], **options: Any) -> dict[int, str]:
    outcomes = list(clean(iter(rows), Config.model_validate(options), Context()))
    assert [outcome.example is None for outcome in outcomes] == [
        any(entry.action == "dropped" for entry in outcome.entries) for outcome in outcomes
    ]
    return {entry.line: f"{entry.action}: {entry.detail}" for outcome in outcomes for entry in outcome.entries}


def test_the_later_one_goes_and_names_the_one_that_stays() -> None:
    rows: list[Example] = [chat(1, STORY), chat(2, "Something else."), chat(3, STORY + " indeed"), chat(4, STORY + "!")]
    assert told(rows) == {3: "dropped: 0.88 like rows.jsonl:1", 4: "dropped: 1.00 like rows.jsonl:1"}
    assert told(rows, action="report")[3] == "flagged: 0.88 like rows.jsonl:1"
    assert set(told(rows, threshold=0.97)) == {4}


def test_another_number_or_another_label_makes_another_example() -> None:
    rows: list[Example] = [
        chat(1, f"{STORY}, at 7 o'clock"),
        chat(2, f"{STORY}, at 8 o'clock"),
        chat(3, f"{STORY}, at 7 o'clock", "no"),
        chat(4, f"{STORY}, at 7 o'clock", " YES"),
    ]
    assert set(told(rows)) == {4}
    assert set(told(rows, numbers=False)) == {2, 4}
    assert set(told(rows, of="question")) == {3, 4}


def test_of_answers_alone() -> None:
    rows: list[Example] = [chat(1, "Tell me of a fox.", STORY), chat(2, "What does it do?", f"{STORY} indeed")]
    assert set(told(rows, of="answer")) == {2}
    assert told(rows, of="question") == {}
    texts: list[Example] = [Text(source=Source(file="a.txt", line=line), text=STORY) for line in (1, 2)]
    assert all(set(told(texts, of=part)) == {2} for part in ("question", "answer", "whole"))


def test_an_instruction_before_each_question_does_not_make_them_near() -> None:
    topics = ("red shoes", "a broken lamp", "late parcels", "wet socks", "old bread", "two cats", "rain", "my bill")
    rows: list[Example] = [
        chat(line, f"Read the following message of a customer with care and say in one word what it is about: {topic}")
        for line, topic in enumerate([f"{one} and {other}" for one in topics for other in topics], start=1)
    ]
    assert len(told([*rows, rows[5].model_copy(update={"source": Source(file="rows.jsonl", line=99)})])) < 5
    assert len(told(rows, common=True)) > 30
    assert set(told([*rows, chat(99, rows[5].messages[0].content + " !")], threshold=0.9)) == {99}
