"""Cleaners in a row: what is dropped or changed is told, nothing else is, and a cleaner that loses rows is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import edited
from sartor.data.cleaning import Chosen, Kept, chosen, cleaned, decided_by
from sartor.errors import RecipeError, SartorError
from sartor.recipe import Named
from sartor.types import Example, LedgerEntry, Source, Text


def texts(*written: str) -> list[Example]:
    return [Text(source=Source(file="a.txt", line=number), text=text) for number, text in enumerate(written, start=1)]


def step(name: str, clean: Callable[[Iterable[Example]], Iterator[Outcome]], *, whole: bool = False) -> Chosen:
    parts = {"SUMMARY": name, "REASONS": (name,), "SELECTS": False, "WHOLE": whole, "Config": object}
    fake: Any = SimpleNamespace(clean=lambda rows, config, context: clean(rows), **parts)
    return Chosen(name, fake, None)


def without(letter: str) -> Chosen:
    """Drops the texts that have a letter."""

    def clean(rows: Iterable[Example]) -> Iterator[Outcome]:
        for row in rows:
            assert isinstance(row, Text)
            yield dropped(row, letter, "it has it", "text") if letter in row.text else kept(row)

    return step(letter, clean)


def shorter_than_most() -> Chosen:
    """Drops what is longer than the middle: all have to be seen first."""

    def clean(rows: Iterable[Example]) -> Iterator[Outcome]:
        lengths = sorted(len(row.text) for row in rows if isinstance(row, Text))
        middle = lengths[len(lengths) // 2] if lengths else 0
        for row in rows:
            assert isinstance(row, Text)
            yield dropped(row, "long", f"over {middle}") if len(row.text) > middle else kept(row)

    return step("long", clean, whole=True)


def upper() -> Chosen:
    def clean(rows: Iterable[Example]) -> Iterator[Outcome]:
        for row in rows:
            made, changed = edited(row, str.upper)
            yield kept(made, *(entry_of(row, "changed", "upper", "", field) for field in changed))

    return step("upper", clean)


def run(rows: Iterable[Example], *steps: Chosen) -> tuple[list[Example], list[LedgerEntry]]:
    told: list[LedgerEntry] = []
    return list(cleaned(rows, steps, Context(), told.append)), told


def test_each_row_goes_on_or_is_told() -> None:
    left, told = run(texts("one", "two", "three"), without("w"), upper())
    assert [row.text for row in left if isinstance(row, Text)] == ["ONE", "THREE"]
    assert [(entry.action, entry.reason, entry.line, entry.field) for entry in told] == [
        ("changed", "upper", 1, "text"),
        ("dropped", "w", 2, "text"),
        ("changed", "upper", 3, "text"),
    ]


@given(st.lists(st.text("abc", max_size=4), max_size=9), st.permutations([0, 1, 2, 3]))
def test_rows_in_are_rows_out_and_rows_told_in_any_order_of_cleaners(written: list[str], order: list[int]) -> None:
    steps = [without("a"), without("b"), shorter_than_most(), upper()]
    rows = texts(*written)
    left, told = run(iter(rows), *(steps[place] for place in order))
    gone = [entry.line for entry in told if entry.action == "dropped"]
    assert sorted(gone + [row.source.line for row in left]) == list(range(1, len(written) + 1))
    assert run(iter(rows), *(steps[place] for place in order)) == (left, told)


def test_rows_pass_one_by_one() -> None:
    taken = []

    def rows() -> Iterator[Example]:
        for row in texts("one", "two", "three"):
            taken.append(row)
            yield row

    stream = cleaned(rows(), [without("w"), upper()], Context(), lambda entry: None)
    next(stream)
    assert len(taken) == 1


def test_a_cleaner_that_loses_a_row_is_found() -> None:
    careless = step("careless", lambda rows: (kept(row) for row in list(rows)[1:]))
    with pytest.raises(SartorError, match="careless took 2 rows and told of 1"):
        run(texts("one", "two"), careless)


def test_rows_can_be_gone_through_again() -> None:
    rows = texts("one", "two\nlines")
    held = Kept(iter(rows))
    assert list(held) == list(held) == rows


def test_a_cleaner_named_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="names 'pii' twice"):
        chosen([Named(name="pii"), Named(name="pii")])


def test_an_unknown_cleaner_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown"):
        chosen([Named(name="polish")])


def test_what_stands_in_the_files_of_settings_decides_too(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("dull\n", encoding="utf-8")
    steps = chosen([Named(name="toxicity", settings={"words": "words.txt"}), Named(name="encoding")])
    before = decided_by(steps, tmp_path)
    assert len(before) == 1
    (tmp_path / "words.txt").write_text("dull\ndim\n", encoding="utf-8")
    assert decided_by(steps, tmp_path) != before
    assert decided_by(chosen([Named(name="toxicity")]), tmp_path) == []
