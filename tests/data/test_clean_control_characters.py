"""Characters that nobody sees."""

from __future__ import annotations

import pytest

from .rows import answer, reasons, talk


@pytest.mark.parametrize(
    ("written", "left", "reason"),
    [
        ("a\x00b\x07c", "abc", "control_characters"),
        ("\x1b[31mred\x1b[0m", "red", "terminal_escapes"),
        ("\x1b]0;title\x07text", "text", "terminal_escapes"),
        ("a\r\nb\rc", "a\nb\nc", "line_ends"),
        ("pass\u200bword", "password", "hidden_characters"),
        ("\ufeffstart so\u00adft", "start soft", "hidden_characters"),
        ("a\u200db", "ab", "hidden_characters"),
        ("hi\U000e0069\U000e0067\U000e006e", "hi", "hidden_characters"),
        ("access\u202e level", "access level", "direction_marks"),
    ],
)
def test_they_go(written: str, left: str, reason: str) -> None:
    assert answer("control_characters", talk(written)) == left
    assert reasons("control_characters", talk(written)) == [reason]


@pytest.mark.parametrize(
    "written",
    [
        "tab\tand\nbreak",
        "👩\u200d👧 family",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "می\u200cخواهم",
        "क्\u200dष",
        "שלום \u202b(abc)\u202c",
        "naïve café",
        "日本語。",
        "next\u0085line",
        "❤\ufe0f",
    ],
)
def test_what_carries_meaning_stays(written: str) -> None:
    assert reasons("control_characters", talk(written)) == []


def test_line_ends_may_stay() -> None:
    assert answer("control_characters", talk("a\r\nb\x00"), line_ends=False) == "a\r\nb"
