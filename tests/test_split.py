"""The split: seeded, in proportion, and never the same question on both sides."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data.families import families
from sartor.data.split import FEWEST, MOST_DEV, MOST_TEST, distinct, labels, leaks, split
from sartor.errors import DataError
from sartor.types import Chat, Source, Text

from .plans import chat

#: (prompt, target) pairs with many equal prompts and many equal rows.
ROWS = st.lists(st.tuples(st.integers(0, 25), st.sampled_from("abc")), min_size=1, max_size=80)


def rows(count: int, *, targets: int = 0) -> list[Chat]:
    """Different questions; with `targets` as many labels, in unequal shares."""
    return [
        chat(f"question {row}", f"label {(row * row) % targets}" if targets else f"answer {row}", line=row + 1)
        for row in range(count)
    ]


def places(examples: list[Chat], *, seed: int = 17) -> dict[str, str]:
    """The part that each question falls into."""
    parts = split(examples, seed=seed)
    named = {"train": parts.train, "dev": parts.dev, "test": parts.test}
    return {item.prompt_digest: name for name, items in named.items() for item in items}


def test_shares() -> None:
    parts = split(rows(200), seed=17)
    assert (len(parts.train), len(parts.dev), len(parts.test)) == (158, 12, 30)
    assert parts.dropped == ()
    assert [item.source.line for item in parts.train] == sorted(item.source.line for item in parts.train)


def test_large_files_hold_out_no_more_than_is_useful() -> None:
    parts = split(rows(6000), seed=17)
    assert (len(parts.test), len(parts.dev)) == (MOST_TEST, MOST_DEV)


def test_small_files_still_have_three_parts() -> None:
    parts = split(rows(FEWEST), seed=17)
    assert (len(parts.train), len(parts.dev), len(parts.test)) == (6, 3, 3)
    with pytest.raises(DataError, match="11 of them different, are too few") as caught:
        split([*rows(FEWEST - 1), *rows(FEWEST - 1)], seed=17)
    assert "at least 12" in caught.value.hint


def test_a_part_that_the_user_brings_is_not_taken() -> None:
    assert split(rows(100), seed=17, with_test=False).test == ()
    assert split(rows(100), seed=17, with_dev=False).dev == ()
    parts = split(rows(3), seed=17, with_test=False, with_dev=False)
    assert len(parts.train) == 3


def test_seeds() -> None:
    assert split(rows(100), seed=1) == split(rows(100), seed=1)
    assert split(rows(100), seed=1) != split(rows(100), seed=2)


def test_the_order_of_the_file_does_not_matter() -> None:
    examples = rows(100, targets=4)
    assert places(examples) == places(examples[::-1])


def families_of(examples: list[Chat]) -> set[frozenset[str]]:
    """The questions of each family."""
    return {frozenset(examples[place].prompt_digest for place in places) for places in families(examples).values()}


@settings(deadline=None)
@given(pairs=ROWS, seed=st.integers(0, 99))
def test_the_same_question_is_never_on_both_sides_and_no_row_is_lost(pairs: list[tuple[int, str]], seed: int) -> None:
    examples = [chat(f"q{prompt}", target, line=line) for line, (prompt, target) in enumerate(pairs, start=1)]
    try:
        parts = split(examples, seed=seed)
    except DataError:
        assert len({prompt for prompt, _ in pairs}) < FEWEST
        return
    sides = [{item.prompt_digest for item in part} for part in (parts.train, parts.dev, parts.test)]
    assert all(sides)
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    for part in (parts.dev, parts.test):
        assert len({item.digest for item in part}) == len(part)
    lines = [item.source.line for part in (parts.train, parts.dev, parts.test) for item in part]
    lines += [entry.line for entry in parts.dropped]
    assert sorted(lines) == list(range(1, len(pairs) + 1))
    assert leaks(parts.train, [*parts.dev, *parts.test]) == []


@settings(deadline=None)
@given(
    count=st.integers(20, 120), targets=st.sampled_from([0, 2, 3]), new=st.integers(0, 10**6), seed=st.integers(0, 9)
)
def test_adding_a_row_moves_only_families_at_the_edges(count: int, targets: int, new: int, seed: int) -> None:
    examples = rows(count, targets=targets)
    more = [*examples, chat(f"new question {new}", examples[0].target if targets else "new", line=count + 1)]
    before, after = places(examples, seed=seed), places(more, seed=seed)
    was, now = families_of(examples), families_of(more)
    moved = [family for family in was & now if any(before[key] != after[key] for key in family)]
    # Two edges, and each family that came or went may push another over each of them.
    assert len(moved) <= 4 + 2 * len(now - was)


def test_duplicates_leave_dev_and_test_with_a_ledger_entry_and_stay_in_train() -> None:
    examples = rows(40)
    again = [
        item.model_copy(update={"source": Source(file="more.jsonl", line=line)}) for line, item in enumerate(examples)
    ]
    twice = [*examples, *again]
    parts = split(twice, seed=17)
    held_out = len(parts.dev) + len(parts.test)
    assert len(parts.dropped) == held_out == 10
    assert len(parts.train) == 2 * (40 - held_out)
    assert {(entry.action, entry.reason, entry.file) for entry in parts.dropped} == {
        ("dropped", "duplicate", "more.jsonl")
    }
    assert all("the same as rows.jsonl:" in entry.detail for entry in parts.dropped)


def test_the_same_question_with_another_answer_is_no_duplicate() -> None:
    kept, dropped = distinct([chat("q", "a"), chat("q", "b", line=2), chat("q", "a", line=3)])
    assert [item.target for item in kept] == ["a", "b"]
    assert [entry.line for entry in dropped] == [3]


@settings(deadline=None)
@given(count=st.integers(40, 150), seed=st.integers(0, 50))
def test_labels_are_in_proportion_in_every_part(count: int, seed: int) -> None:
    examples = rows(count, targets=3)
    shares = Counter(item.target for item in examples)
    parts = split(examples, seed=seed)
    for part in (parts.test, (*parts.test, *parts.dev)):
        found = Counter(item.target for item in part if isinstance(item, Chat))
        for label, number in shares.items():
            assert abs(found[label] - number * len(part) / count) <= 1.5


def test_labels() -> None:
    assert labels([chat(str(row), "rare" if row < 3 else " common ") for row in range(20)]) == ("common", "rare")
    assert labels([]) == ()
    assert labels(rows(20)) == (), "too many"
    assert labels([chat(str(row), "always") for row in range(20)]) == (), "no choice"
    assert labels([chat(str(row), "x" * (64 + row % 2)) for row in range(20)]) == (), "too long"
    assert labels([chat(str(row), "a\nb" if row % 2 else "c") for row in range(20)]) == (), "more than a line"
    text = Text(source=Source(file="t", line=1), text="a")
    assert labels([text, *(chat(str(row), "ab"[row % 2]) for row in range(20))]) == (), "not all are answers"


def test_text_is_split_too() -> None:
    texts = [Text(source=Source(file="t", line=row), text=f"text {row % 20}") for row in range(40)]
    parts = split(texts, seed=17)
    assert len(parts.dropped) == len(parts.dev) + len(parts.test)
    assert leaks(parts.train, parts.test) == []


def test_leaks_name_both_rows() -> None:
    train, test = rows(5), [chat("question 3", "another answer", line=77), chat("new", "x", line=78)]
    assert leaks(train, test) == [("rows.jsonl:77", "rows.jsonl:4")]
    assert leaks([chat("q", "a", system="be brief")], [chat("q", "a")]) == []
