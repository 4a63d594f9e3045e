"""Two versions of a data set: every difference is listed with its reason, and can be undone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.data.diff import RESTORED, Edit, Tally, differences, restored
from sartor.errors import DataError
from sartor.types import Example, LedgerEntry, Source, Text


def row(line: int, text: str) -> Example:
    return Text(source=Source(file="a.txt", line=line), text=text)


def entry(line: int, reason: str) -> LedgerEntry:
    return LedgerEntry(action="dropped", file="a.txt", line=line, reason=reason)


BEFORE = [row(1, "one"), row(2, "two"), row(3, "three")]
AFTER = [row(2, "TWO"), row(3, "three"), row(4, "four")]
LEDGER = [entry(1, "short"), entry(2, "upper")]


def test_removed_changed_and_added_rows_are_told_with_their_reasons() -> None:
    tally = Tally()
    found = list(differences(BEFORE, AFTER, LEDGER, tally))
    assert [(item.what, item.id, item.reasons) for item in found] == [
        ("removed", "a.txt:1", ("short",)),
        ("changed", "a.txt:2", ("upper",)),
        ("added", "a.txt:4", ("not in the ledger",)),
    ]
    assert found[1].edits == (Edit("text", "two", "TWO"),)
    assert (tally.before, tally.after) == (3, 3)
    assert tally.differences == {
        ("removed", "short"): 1,
        ("changed", "upper"): 1,
        ("added", "not in the ledger"): 1,
    }


def test_rows_are_put_back_in_their_order() -> None:
    made = list(restored(BEFORE, AFTER, ["a.txt:1", "a.txt:2"]))
    assert [example for example, _ in made] == [row(1, "one"), row(2, "two"), row(3, "three"), row(4, "four")]
    assert [told.reason if told else "" for _, told in made] == [RESTORED, RESTORED, "", ""]


def test_a_row_that_never_was_cannot_be_put_back() -> None:
    with pytest.raises(DataError, match=r"there was no row 'a\.txt:9' before"):
        list(restored(BEFORE, AFTER, ["a.txt:9"]))


#: Two files of one name that were collected into one folder.
TWICE = [row(1, "one"), row(2, "two"), row(1, "uno"), row(2, "due")]


def test_rows_of_one_name_pair_in_their_order() -> None:
    tally = Tally()
    assert list(differences(TWICE, TWICE, (), tally)) == []
    assert (tally.before, tally.after) == (4, 4)
    after = [*TWICE[:3], row(2, "DUE"), row(1, "new")]
    found = list(differences(TWICE, after, (), Tally()))
    assert [(item.what, item.id, item.example) for item in found] == [
        ("changed", "a.txt:2", row(2, "DUE")),
        ("added", "a.txt:1", row(1, "new")),
    ]


def test_rows_of_one_name_are_put_back_together_and_none_is_lost() -> None:
    for after in (TWICE[1:], TWICE[:1] + TWICE[3:], TWICE[1:2]):
        made = list(restored(TWICE, after, ["a.txt:1", "a.txt:2"]))
        assert [example for example, _ in made] == TWICE
        assert all(told and told.reason == RESTORED for _, told in made)
    made = list(restored(TWICE, [row(1, "ONE"), row(1, "UNO")], ["a.txt:2"]))
    assert [example for example, _ in made] == [row(1, "ONE"), row(2, "two"), row(1, "UNO"), row(2, "due")]


@given(st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)))
def test_whatever_was_removed_can_be_restored(before: set[int], gone: set[int]) -> None:
    rows = [row(line, str(line)) for line in sorted(before)]
    left = [example for example in rows if example.source.line not in gone]
    removed = [item.id for item in differences(rows, left, (), Tally())]
    assert [example for example, _ in restored(rows, left, removed)] == rows
