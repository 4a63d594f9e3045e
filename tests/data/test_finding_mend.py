"""Edits that tell what they did."""

from __future__ import annotations

from sartor.data.finding.mend import Mended, mended, times

from .rows import talk


def louder(text: str) -> Mended:
    result = Mended(text)
    result.becomes(text.upper(), "loud", "in capitals")
    result.becomes(result.text.replace("?", "!"), "marks", times(text.count("?"), "mark"))
    return result


def test_an_entry_for_each_field_and_step() -> None:
    outcome = mended(talk("yes", "Really?"), louder)
    assert outcome.example == talk("YES", "REALLY!")
    assert [(entry.field, entry.reason, entry.detail) for entry in outcome.entries] == [
        ("messages[0].content", "loud", "in capitals"),
        ("messages[0].content", "marks", "1 mark"),
        ("messages[1].content", "loud", "in capitals"),
    ]
    assert {entry.action for entry in outcome.entries} == {"changed"}


def test_nothing_to_do() -> None:
    row = talk("YES", "NO")
    assert mended(row, louder).example is row
    assert mended(row, louder).entries == ()
    assert times(2, "tag") == "2 tags"
