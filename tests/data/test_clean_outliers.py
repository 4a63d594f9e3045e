"""Outliers: by robust deviations and by shares; where nothing is usual, nothing is unusual."""

from __future__ import annotations

from typing import Any

import pytest

from sartor.data.clean import Context
from sartor.data.clean.outliers import FEWEST, Config, clean
from sartor.data.clean.texts import whole_of
from sartor.errors import DataError
from sartor.types import Example, Source, Text


def rows(*lengths: int) -> list[Example]:
    return [Text(source=Source(file="a.txt", line=line), text="x" * size) for line, size in enumerate(lengths, start=1)]


USUAL = [80 + 3 * (row % 15) for row in range(60)]


def told(lengths: list[int], context: Context | None = None, **options: Any) -> dict[int, str]:
    outcomes = clean(rows(*lengths), Config.model_validate(options), context or Context())
    return {entry.line: f"{entry.action}: {entry.reason}" for outcome in outcomes for entry in outcome.entries}


def test_far_shorter_and_far_longer_ones_go() -> None:
    assert told([*USUAL, 3, 5000]) == {61: "dropped: too_short", 62: "dropped: too_long"}
    assert told([*USUAL, 3, 5000], action="report")[61] == "flagged: too_short"
    assert told(USUAL) == {}


def test_many_outliers_do_not_hide_each_other() -> None:
    assert set(told([*USUAL, *[5000] * 15])) == set(range(61, 76))


def test_the_detail_says_what_is_usual() -> None:
    (entry,) = [entry for outcome in clean(rows(*USUAL, 5000), Config(), Context()) for entry in outcome.entries]
    assert entry.detail.startswith("5,000 characters; from ")
    assert entry.detail.endswith("half have 101 or less")


def test_where_all_are_as_long_a_little_more_is_no_outlier() -> None:
    assert told([100] * 50 + [110]) == {}
    assert set(told([100] * 50 + [400])) == {51}


def test_few_rows_have_no_outliers() -> None:
    assert told([10] * (FEWEST - 2) + [9999]) == {}
    assert told([]) == {}


def test_shares() -> None:
    lengths = list(range(100, 200))
    assert set(told(lengths, lowest=0.05, highest=0.1)) == {*range(1, 6), *range(91, 101)}


def test_tokens_need_a_model() -> None:
    context = Context(count_tokens=lambda example: len(whole_of(example)) // 4)
    assert set(told([*USUAL, 5000], context, unit="tokens")) == {61}
    with pytest.raises(DataError, match="no model is at hand"):
        told(USUAL, unit="tokens")
