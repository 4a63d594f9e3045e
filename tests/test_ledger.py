"""The ledger adds up, counts by reason, and refuses a file with too many unreadable rows."""

from __future__ import annotations

import pytest

from sartor.data.ledger import UNREADABLE, Ledger, listed, refuse_if_many
from sartor.errors import DataError, SartorError
from sartor.types import LedgerEntry


def dropped(line: int, reason: str = "syntax", field: str = "") -> LedgerEntry:
    return LedgerEntry(
        action="dropped", file="t.jsonl", line=line, field=field, reason=reason, detail="saw null, expected a text"
    )


def changed(line: int) -> LedgerEntry:
    return LedgerEntry(action="changed", file="t.jsonl", line=line, reason="cut_after_answer")


def test_counts_dropped_and_changed_rows_apart():
    ledger = Ledger(rows_in=5, kept=2, entries=(dropped(1), dropped(2, "field"), changed(3), dropped(4, "field")))
    assert ledger.dropped == 3
    assert list(ledger.counts().items()) == [("field", 2), ("syntax", 1)]
    assert ledger.counts("changed") == {"cut_after_answer": 1}


@pytest.mark.parametrize(("rows_in", "kept"), [(3, 3), (3, 1), (1, 2)])
def test_rows_that_do_not_add_up_are_our_fault(rows_in: int, kept: int):
    with pytest.raises(SartorError, match="rows are lost") as caught:
        Ledger(rows_in=rows_in, kept=kept, entries=(dropped(1),))
    assert caught.value.exit_code == 3


def test_a_changed_row_is_kept():
    assert Ledger(rows_in=1, kept=1, entries=(changed(1),)).dropped == 0


def test_a_file_with_few_bad_rows_passes():
    refuse_if_many(Ledger(rows_in=100, kept=99, entries=(dropped(7),)))
    refuse_if_many(Ledger(rows_in=0, kept=0))


def test_a_file_with_many_bad_rows_is_refused_with_the_first_five():
    bad = tuple(dropped(line, "field", "messages[2].content") for line in range(11, 18))
    with pytest.raises(DataError) as caught:
        refuse_if_many(Ledger(rows_in=100, kept=93, entries=bad))
    message = str(caught.value)
    assert "7 of 100 rows cannot be read (7.00%; allowed 1.00%)" in message
    for line in range(11, 16):
        assert f"t.jsonl:{line}, field `messages[2].content`: saw null, expected a text" in message
    assert "t.jsonl:16" not in message
    assert "2 more" in message
    assert caught.value.hint.endswith("`data.max_bad_rows: 0.07` in the recipe")


def test_the_share_that_the_hint_names_is_enough():
    ledger = Ledger(rows_in=7, kept=5, entries=(dropped(1), dropped(2)))
    with pytest.raises(DataError) as caught:
        refuse_if_many(ledger)
    refuse_if_many(ledger, float(caught.value.hint.partition("max_bad_rows: ")[2].partition("`")[0]))


def test_where_no_row_is_good_more_tolerance_is_not_the_way_out():
    with pytest.raises(DataError) as caught:
        refuse_if_many(Ledger(rows_in=1, kept=0, entries=(dropped(1),)))
    assert "max_bad_rows" not in caught.value.hint


def test_rows_that_a_cleaner_dropped_are_not_unreadable():
    assert "near_duplicate" not in UNREADABLE
    refuse_if_many(Ledger(rows_in=2, kept=1, entries=(dropped(1, "near_duplicate"),)))


def test_few_entries_are_listed_without_a_rest():
    assert listed((dropped(3),)) == "  t.jsonl:3: saw null, expected a text"
