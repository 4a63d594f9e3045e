"""Where digits stand close together."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers.runs import runs_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call 415-555-2671 now", ["415-555-2671"]),
        ("4111 1111 1111 1111, 12/27", ["4111 1111 1111 1111"]),
        ("a 12345 b 123456 c", ["123456"]),
        ("x1234567 y", []),
        ("66.187.233.211 and 1.2.3.4.5.6", ["1.2.3.4.5.6"]),
        ("+49 (0)30 901820", ["49 (0)30 901820"]),
        ("11:46:03 12:13", []),
    ],
)
def test_runs(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end, _ in runs_of(text)] == expected


def test_digits_are_counted_and_marks_are_not() -> None:
    assert [digits for _, _, digits in runs_of("(415) 555-2671")] == [10]
