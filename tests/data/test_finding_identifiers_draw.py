"""Draws from a key."""

from __future__ import annotations

from collections import Counter

from sartor.data.finding.identifiers.draw import Draw


def test_a_key_gives_the_same_on_every_machine() -> None:
    assert Draw("17:e_mail:jane@mail.net").like("Jane.Doe 7") == Draw("17:e_mail:jane@mail.net").like("Jane.Doe 7")
    assert Draw("a").letters(12) == "zkamvqigtycl"
    assert Draw("\udc80").below(10) < 10


def test_case_and_marks_stay() -> None:
    made = Draw("k").like("Aé9-ß x")
    assert (made[0].isupper(), made[2].isdigit(), made[3], made[5]) == (True, True, "-", " ")
    assert made.isascii()


def test_draws_are_even() -> None:
    draw = Draw("even")
    counts = Counter(draw.below(10) for _ in range(10_000))
    assert set(counts) == set(range(10))
    assert max(counts.values()) - min(counts.values()) < 250
