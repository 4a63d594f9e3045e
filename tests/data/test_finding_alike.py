"""What keeps two examples apart, and rows in batches."""

from __future__ import annotations

import itertools

from sartor.data.clean.texts import Part
from sartor.data.finding.alike import batches, begun, tagged
from sartor.types import Chat, Message, Pair, Source, Text

SOURCE = Source(file="rows.jsonl", line=1)


def chat(question: str, answer: str) -> Chat:
    return Chat(
        source=SOURCE, messages=(Message(role="user", content=question), Message(role="assistant", content=answer))
    )


def same(one: Chat, other: Chat, part: Part = "whole", *, numbers: bool = True) -> bool:
    _, (left, right) = tagged([one, other], part, numbers=numbers)
    return left == right


def test_short_answers_keep_apart_where_they_count() -> None:
    assert same(chat("a?", "Yes"), chat("b?", " yes\n"))
    assert not same(chat("a?", "yes"), chat("a?", "no"))
    assert not same(chat("a?", "yes"), chat("a?", "no"), "answer")
    assert same(chat("a?", "yes"), chat("a?", "no"), "question")
    assert same(chat("a?", "one " * 30), chat("a?", "two " * 30)), "a long answer is no label"


def test_numbers_keep_apart_where_that_is_asked_for() -> None:
    assert not same(chat("17 + 25?", "yes"), chat("17 + 26?", "yes"))
    assert same(chat("17 + 25?", "yes"), chat("17 + 26?", "yes"), numbers=False)
    assert not same(chat("1 72", "yes"), chat("17 2", "yes"))
    assert not same(chat("é 17", "yes"), chat("é 18", "yes"))
    assert same(chat("é 17", "yes"), chat("17", "yes"))


def test_a_running_text_is_one_part_and_a_pair_has_its_better_answer() -> None:
    text = Text(source=SOURCE, text="17 of them")
    assert tagged([text], "question", numbers=True)[0] == ["17 of them"]
    prompt = (Message(role="user", content="?"),)
    good, bad = Message(role="assistant", content="good"), Message(role="assistant", content="bad")
    pair = Pair(source=SOURCE, prompt=prompt, chosen=good, rejected=bad)
    other = Pair(source=SOURCE, prompt=prompt, chosen=bad, rejected=good)
    _, (left, right) = tagged([pair, other], "whole", numbers=True)
    assert left != right


def test_batches_and_beginnings_lose_nothing() -> None:
    assert list(batches(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []
    head, rows = begun(itertools.count(), 3)
    assert head == [0, 1, 2]
    assert list(itertools.islice(rows, 5)) == [0, 1, 2, 3, 4]
