"""Check digits and spelling over."""

from __future__ import annotations

import itertools

from sartor.data.finding.identifiers.checks import digits_of, luhn, spread, until


def test_luhn() -> None:
    assert luhn("79927398713")
    assert [luhn(f"7992739871{digit}") for digit in range(10)].count(True) == 1


def test_spread_keeps_marks() -> None:
    assert digits_of("+49 (0)30") == "49030"
    assert spread("ab-12 c", "xy34z") == "xy-34 z"


def test_until_takes_the_first_that_is_good() -> None:
    assert until(lambda text: text > "3", map(str, itertools.count())) == "4"
