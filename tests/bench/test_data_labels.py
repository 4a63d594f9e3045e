"""Noisy labels: what is flipped, how suggestions are judged, and the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import data_labels
import sections

WORDS = {section: [f"{section}{number}" for number in range(12)] for section in sections.SECTIONS}


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        (f"a {words[row % 12]} for {words[(row * 5 + 1) % 12]} and {words[(row * 7 + 2) % 12]}, {row}", section)
        for section, words in WORDS.items()
        for row in range(30)
    ]
    monkeypatch.setattr(sections, "packages", lambda: iter(rows))


def test_one_in_ten_is_flipped_and_the_archive_is_kept() -> None:
    rows, true = data_labels.flipped(1)
    assert len(rows) == len(true) == 30 * len(sections.SECTIONS)
    wrong = [row for row, section in zip(rows, true, strict=True) if row.target != section]
    assert 0.04 < len(wrong) / len(rows) < 0.16
    assert data_labels.flipped(1) == (rows, true)


def test_suggestions_are_judged_by_what_was_flipped() -> None:
    rows, true = data_labels.flipped(2)
    found = data_labels.judged(rows, true, {"method": "neighbours", "margin": 0.4})
    assert found["hits"] >= 0.8 * found["flipped"]
    assert found["right"] >= 0.9 * found["hits"]
    assert found["told"] <= 1.3 * found["hits"]


def test_the_table(make_run: Callable[..., dict[str, Any]]) -> None:
    judged = {"rows": 240, "flipped": 20, "told": 16, "hits": 12, "right": 9, "seconds": 2.0}
    found = [
        {**judged, "vectors": "words", "method": method, "margin": margin}
        for method in data_labels.METHODS
        for margin in data_labels.MARGINS
    ]
    result = {
        "date": "2026-11-26",
        "machine": {"processor": "a processor"},
        "settings": {"threads": 2},
        "runs": [make_run("sartor", 0, 1.0, found=found)],
    }
    page = data_labels.markdown(result)
    assert "| both | words | 0.4 | 16 | 75.0% | 60.0% | 75.0% | 120 (120–120) |" in page
    assert "fewer than five repeats" in page
