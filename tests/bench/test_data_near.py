"""The judge of near duplicates: its Jaccard index, its pairs, and the table."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import data_near
from sartor.data import near

PHRASES = [
    "a small tool for large files",
    "the other tool, for small files",
    "fast reader of many files",
    "nothing else",
]


@pytest.fixture(autouse=True)
def phrases(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    words = sorted({word for phrase in PHRASES for word in phrase.split()})
    made = {" ".join(draw.choices(words, k=draw.randint(3, 9))) for _ in range(150)}
    monkeypatch.setattr(data_near, "descriptions", lambda: sorted(made | set(PHRASES)))


def test_jaccard_by_words_and_by_characters() -> None:
    assert data_near.true_jaccard("a b c d", "A, b. c e", parts=2) == pytest.approx(1 / 3)
    assert data_near.true_jaccard("abcdef", "abcdeg", parts=1) == pytest.approx(1 / 3)
    assert data_near.true_jaccard("ab", "AB ", parts=1) == 1.0


def test_all_pairs_are_those_of_comparing_each_with_each() -> None:
    texts = data_near.descriptions()
    brute = {
        (later, earlier)
        for later in range(len(texts))
        for earlier in range(later)
        if data_near.true_jaccard(texts[later], texts[earlier], parts=1) >= near.THRESHOLD
    }
    assert data_near.all_pairs(texts) == brute


def test_labelled_pairs_fall_into_bins_and_none_is_wrong() -> None:
    found = data_near.labelled(60, parts=12)
    assert 30 < sum(part["pairs"] for part in found["bins"]) <= 60
    assert all(part["found"] == 0 for part in found["bins"] if part["high"] <= near.THRESHOLD)
    assert found["wrong"] == 0


def test_the_page_names_what_was_found_and_what_it_took(make_run: Callable[..., dict[str, Any]]) -> None:
    bins = [{"low": 0.65, "high": 0.7, "pairs": 4, "found": 0}, {"low": 0.7, "high": 0.75, "pairs": 10, "found": 9}]
    natural = {
        "texts": 9,
        "pairs": 4,
        "in_one_group": 4,
        "dropped": 3,
        "dropped_wrongly": 0,
        "kept_beside_a_near_one": 1,
    }
    grown = data_near.grown(1100)
    assert grown["found"] >= grown["copies"]
    page = data_near.markdown(
        {
            "date": "2026-11-26",
            "machine": {"processor": "a processor"},
            "pairs": {"long": {"bins": bins, "reported": 9, "wrong": 0}},
            "descriptions": natural,
            "settings": {"repeats": 2, "threads": 1},
            "runs": [{**make_run("sartor", 0, 1.0, foreign=0.5), **grown, "peak_bytes": mib << 20} for mib in (9, 7)],
        }
    )
    assert "Recall from 0.7 on: 90.00% of 10. Of 9 reported pairs 0 (0.000%) are below it." in page
    assert "of which 100.00% stand in one group" in page
    assert "| 1,100 |" in page
    assert "| 9 MiB |" in page
    assert "not idle" in page
