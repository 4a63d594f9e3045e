"""A data set in the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from sartor.data.inspect import Asked, Facts, inspect
from sartor.sinks.inspection import show_inspection
from sartor.types import Chat, LedgerEntry, Message, Source

from ..toy_speech import ToySpeech  # noqa: TID252 - the tests are no package that could be imported by name


def rows(*answers: str) -> list[Chat]:
    return [
        Chat(
            source=Source(file="rows.jsonl", line=line),
            messages=(Message(role="user", content="Where is my refund?"), Message(role="assistant", content=answer)),
        )
        for line, answer in enumerate(answers, start=1)
    ]


def shown(facts: Facts, *, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=100, force_terminal=colour, color_system="truecolor" if colour else None
    )
    console.print(show_inspection(facts))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_numbers_and_histograms() -> None:
    page = shown(inspect(rows(*["yes"] * 30, *["no"] * 10), label="refunds"))
    assert "refunds: 40 rows (40 chat)" in page
    assert "turns: 40 user, 40 assistant" in page
    assert "75.0%" in page
    assert "characters of the answer  110 in all, mean 2.8, median 3, 99 % within 3, from 2 to 3" in page
    assert "█" * 40 in page


def test_the_longest_bar_is_full_and_the_shortest_seen() -> None:
    page = shown(inspect(rows(*["yes"] * 2000, "no"), label="x"))
    assert "▏" in page


def test_search_and_ledger() -> None:
    entry = LedgerEntry(action="dropped", file="rows.jsonl", line=9, reason="refusal", detail="a pattern: en")
    page = shown(inspect(rows("yes"), [entry], label="x", asked=Asked(search="refund")))
    assert "rows that hold refund: 1; 1 rows shown" in page
    assert "dropped: refusal" in page
    page = shown(inspect(rows("yes"), [entry], label="x", asked=Asked(reason="refusal")))
    assert "entries for refusal: 1; 1 rows shown" in page
    assert "the row is not in this data set" in page
    assert "a pattern: en" in page


def test_tokens_stand_apart_and_trained_ones_are_marked() -> None:
    page = shown(inspect(rows("ok"), label="x", renderer=ToySpeech()), colour=True)
    assert "\x1b[1;4;32;48;5" in page or "\x1b[1;4;32" in page
    assert "trained ones are green and underlined" in page


def test_hostile_text_is_shown_and_obeyed_nowhere() -> None:
    page = shown(inspect(rows("[red]no[/red] \x1b[2J :smile: \udc80"), label="[bold]x\x07"))
    assert "[red]no[/red] ␛[2J :smile: \ufffd" in page
    assert "[bold]x␇" in page
    assert "\x1b" not in page


def test_many_labels_are_cut() -> None:
    answers = [f"label {number}" for number in range(30) for _ in range(6)]
    assert "… 10 more" in shown(inspect(rows(*answers), label="x"))
