"""Answers that were cut off."""

from __future__ import annotations

import pytest

from .rows import outcomes, reasons, talk, text

LONG = (
    "The heron stands in the shallow water. It waits for a fish to come by, and it may wait a long time. When one "
    "does, it strikes. The neck is folded like a spring before that. Many people think that it hunts at night only, "
)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Here:\n```python\nprint(1)\n", "open_code"),
        ("```\na\n```\ntext\n~~~\nb", "open_code"),
        ('{"name": "Ada", "tags": ["a", "b"', "open_json"),
        ('[{"a": 1}, {"a": "two', "open_json"),
        (LONG + "but that is not", "cut_sentence"),
        (LONG + "and in the evening, because of the", "cut_sentence"),
    ],
)
def test_they_go(answer: str, reason: str) -> None:
    assert reasons("truncated", talk(answer)) == [reason]


@pytest.mark.parametrize(
    "answer",
    [
        "positive",
        "A title without a stop",
        "```\na\n```",
        "````\n```\n````",
        '{"a": [1, 2]}',
        "[1] Smith, A title (2003",
        "{x | x > 0",
        "[link](http",
        LONG + "but that is wrong.",
        LONG + "but that is wrong:\n- herons\n- storks and other tall birds in the reeds",
        LONG + "\nYours\nAda",
        LONG + "\n| a | b |",
        LONG + "see https://example.org/a/long/path",
        LONG + "is it (really)?",
        "Roses are red as they can be in May\nViolets are blue as the sky above\nSugar is sweet. So are you. And\n" * 3
        + "So we go on as we always did before",
        "鹭站在浅水里。它等鱼来。" * 30 + "它站着",
    ],
)
def test_whole_ones_stay(answer: str) -> None:
    assert reasons("truncated", talk(answer)) == []


def test_running_text_is_not_judged() -> None:
    assert reasons("truncated", text(LONG + "and")) == []


def test_settings() -> None:
    cut = talk(LONG + "but that is not")
    assert reasons("truncated", cut, sentences=False) == []
    assert reasons("truncated", cut, shortest=1000) == []
    (outcome,) = outcomes("truncated", [cut], action="report")
    assert outcome.example == cut
    assert outcome.entries[0].action == "flagged"
