"""Contradictions: by the same question, among chats, pairs and unpaired answers."""

from __future__ import annotations

from typing import Any

from sartor.data.clean import Context
from sartor.data.clean.contradictions import Config, clean
from sartor.types import Chat, Example, Message, Pair, Source, Text, ToolCall, Unpaired


def source(line: int) -> Source:
    return Source(file="rows.jsonl", line=line)


def said(role: Any, text: str) -> Message:
    return Message(role=role, content=text)


def chat(line: int, question: str, answer: str) -> Chat:
    return Chat(source=source(line), messages=(said("user", question), said("assistant", answer)))


def told(rows: list[Example], **options: Any) -> dict[int, str]:
    outcomes = clean(rows, Config.model_validate(options), Context())
    return {entry.line: f"{entry.action}: {entry.detail}" for outcome in outcomes for entry in outcome.entries}


ROWS: list[Example] = [
    chat(1, "Is it?", "yes"),
    chat(2, "Is it?", "no"),
    chat(3, "Is it?", " YES "),
    chat(4, "Is it not?", "no"),
]


def test_all_that_contradict_are_told_with_the_places_of_the_answers() -> None:
    detail = "answered as in rows.jsonl:1 × 2; as in rows.jsonl:2 × 1"
    assert told(ROWS) == dict.fromkeys((1, 2, 3), f"flagged: {detail}")
    assert set(told(ROWS, action="drop")) == {1, 2, 3}


def test_the_majority_stays_and_at_a_tie_nobody() -> None:
    assert set(told(ROWS, action="majority")) == {2}
    assert set(told(ROWS[:2], action="majority")) == {1, 2}
    many: list[Example] = [chat(line, "?", f"answer {line // 2}") for line in range(1, 12)]
    assert told(many)[1].endswith("; 3 more")


def test_near_questions_count_as_one_where_that_is_asked_for() -> None:
    story = "Does the quick brown fox jump over the lazy dog near the river bank every single day of the summer"
    rows: list[Example] = [chat(1, f"{story}?", "yes"), chat(2, f"{story}, please?", "no")]
    assert told(rows) == {}
    assert set(told(rows, near_questions=True)) == {1, 2}


def test_pairs_contradict_when_the_better_is_the_worse() -> None:
    def pair(line: int, better: str, worse: str) -> Pair:
        prompt = (said("user", "?"),)
        return Pair(
            source=source(line), prompt=prompt, chosen=said("assistant", better), rejected=said("assistant", worse)
        )

    assert set(told([pair(1, "a", "b"), pair(2, "b", "a"), pair(3, "a", "c")])) == {1, 2}


def test_unpaired_answers_contradict_when_one_is_good_and_bad() -> None:
    def rated(line: int, text: str, good: bool) -> Unpaired:
        return Unpaired(source=source(line), prompt=(said("user", "?"),), answer=said("assistant", text), good=good)

    found = told([rated(1, "a", True), rated(2, "A", False), rated(3, "b", False)])
    assert found == dict.fromkeys((1, 2), "flagged: answered as in rows.jsonl:1 × 1; as in rows.jsonl:2 × 1")


def test_no_answer_stands_in_the_ledger() -> None:
    answers = ("Write to jane.doe@acme-corp.com", "Call +49 30 901820 today")
    rows: list[Example] = [chat(line, "How do I reach Jane?", answer) for line, answer in enumerate(answers, start=1)]
    for action in ("report", "drop", "majority"):
        details = told(rows, action=action)
        assert set(details) == {1, 2}
        assert not any(word in detail for detail in details.values() for word in ("jane.doe", "901820"))


def test_texts_never_do_and_other_calls_are_other_answers() -> None:
    texts: list[Example] = [Text(source=source(line), text="x") for line in (1, 2)]
    assert told(texts) == {}

    def calling(line: int, city: str) -> Chat:
        call = ToolCall(name="weather", arguments={"city": city})
        answer = Message(role="assistant", tool_calls=(call,))
        return Chat(source=source(line), messages=(said("user", "?"), answer))

    assert set(told([calling(1, "Rome"), calling(2, "Rome")])) == set()
    assert set(told([calling(1, "Rome"), calling(2, "Paris")])) == {1, 2}
