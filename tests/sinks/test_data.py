"""Differences between data sets, for people: what changed is seen where it changed, and nothing drives the terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType

from sartor.data.diff import Difference, Edit, Tally
from sartor.sinks.data import show_difference, show_tally
from sartor.types import LedgerEntry, Source, Text


def shown(value: RenderableType) -> str:
    target = StringIO()
    Console(file=target, width=300, color_system=None).print(value)
    return target.getvalue()


def row(text: str) -> Text:
    return Text(source=Source(file="a.txt", line=3), text=text)


def test_a_removed_row_is_shown_with_its_reason() -> None:
    entry = LedgerEntry(action="dropped", file="a.txt", line=3, reason="too_short", detail="2 characters")
    text = shown(show_difference(Difference("removed", "a.txt:3", row("ab"), entries=(entry,))))
    assert text.split() == ["removed", "a.txt:3", "too_short", "2", "characters", "ab"]


def test_a_change_far_inside_of_a_text_is_seen() -> None:
    long = "word " * 200
    edit = Edit("text", f"{long}ada@lovelace.net {long}", f"{long}[E_MAIL] {long}")
    text = shown(show_difference(Difference("changed", "a.txt:3", row(edit.after), (edit,))))
    assert "ada@lovelace.net" in text
    assert "[E_MAIL]" in text
    assert len(text) < 700


def test_control_characters_are_not_obeyed() -> None:
    text = shown(show_difference(Difference("added", "a.txt:3", row("\x1b[2Jgone"))))
    assert "\x1b" not in text


def test_the_tally_tells_what_is_not_listed() -> None:
    tally = Tally(before=9, after=7)
    tally.differences["removed", "pii"] = 5
    assert shown(show_tally(tally, 2)).splitlines() == [
        "9 rows before, 7 after",
        "  5 removed: pii",
        "  (3 are not listed above: --limit)",
    ]
    assert "not listed" not in shown(show_tally(tally, 5))
