"""The measure of the recognisers: what is planted stands where it is said to stand, and hits are counted right."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import data_pii
import identifiers
from sartor.data.finding.identifiers import Span
from sartor.data.finding.identifiers.iban import is_iban

TEXT = "Dear Ada,\n\nwrite to ada@mail.net\nor not.\n"
LABEL = Span(TEXT.index("ada@"), TEXT.index("\nor"), "e_mail")


@pytest.mark.parametrize("seed", range(20))
def test_labels_move_with_their_text(seed: int) -> None:
    text, labels = data_pii.planted(TEXT, [LABEL], random.Random(seed))
    assert len(labels) == 1 + data_pii.PLANTED
    assert "ada@mail.net" in [text[label.start : label.end] for label in labels]
    for label in labels:
        value = text[label.start : label.end]
        assert value == value.strip()
        assert "\n" not in value
        assert not value.startswith(("Phone", "call", "Tel", "cell"))


@pytest.mark.parametrize("kind", sorted(identifiers.KINDS))
def test_drawn_identifiers_are_different_and_the_same_each_time(kind: str) -> None:
    draws = [identifiers.KINDS[kind](random.Random(seed)) for seed in range(30)]
    assert draws == [identifiers.KINDS[kind](random.Random(seed)) for seed in range(30)]
    assert len(set(draws)) > 20


def test_the_bench_and_the_recogniser_agree_on_check_digits() -> None:
    drawn = (identifiers.iban(random.Random(seed)) for seed in range(50))
    assert all(is_iban(value.replace(" ", "").upper()) for value in drawn)


def test_hits_and_mistakes() -> None:
    tally = data_pii.Tally()
    whole, part, wrong = Span(5, 10, "phone"), Span(20, 24, "phone"), Span(40, 44, "card")
    tally.add("x" * 50, [Span(5, 10, "phone"), Span(20, 30, "phone")], [whole, part, wrong])
    rows = {row["kind"]: row for row in tally.rows()}
    assert (rows["phone"]["recall"], rows["phone"]["precision"]) == (0.5, 0.5)
    assert (rows["card"]["recall"], rows["card"]["precision"]) == (None, 0.0)
    assert rows["all"]["expected"] == 2
    assert not data_pii.covers(Span(0, 30, "phone"), Span(5, 10, "phone"))


def test_the_page_names_every_set(make_run: Callable[..., dict[str, Any]]) -> None:
    tally = data_pii.Tally()
    tally.add(TEXT, [LABEL], [LABEL])
    seconds = (0.1, 0.125, 0.2)
    timed = [{"bytes": 10**6, "seconds": each} for each in seconds]
    result = {
        "date": "2030-01-02",
        "machine": {"processor": "Abacus 9"},
        "sets": {"read": tally.rows(), "headers": tally.rows()},
        "settings": {"repeats": 3, "threads": 1, "rounds": 20},
        "runs": [make_run("sartor", 0, 1.0, mails=each, bodies=each) for each in timed],
    }
    page = data_pii.page(result)
    assert "### read" in page
    assert "| e_mail | 1 | 1 | 1.000 | 1.000 |" in page
    assert "8.0 (5.0–10.0) MB/s over 1.0 MB of mails" in page
    assert "fewer than five repeats" in page
