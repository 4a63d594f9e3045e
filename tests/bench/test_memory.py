"""Predicted and measured: enough varied configurations, their rows, and the table."""

from __future__ import annotations

import pytest

import memory


def test_there_are_enough_and_they_vary() -> None:
    assert len(memory.SETTINGS) >= 20
    assert len({item.words + str(item.supervised) + str(item.tune) for item in memory.SETTINGS}) == len(memory.SETTINGS)
    assert {item.method for item in memory.SETTINGS} == {"lora", "full"}
    assert {item.model for item in memory.SETTINGS} == {memory.MODEL, *memory.SHAPES}


def test_rows_are_seeded_and_one_has_the_longest_length() -> None:
    setting = memory.Setting(memory.MODEL, 100, supervised=0.25)
    item = memory.rows(setting, 16)
    assert item == memory.rows(setting, 16)
    lengths = [len(ids) for ids in item.ids]
    assert max(lengths) == 100
    assert min(lengths) >= 25
    shares = [sum(label != -100 for label in labels) / len(labels) for labels in item.labels]
    assert all(share == pytest.approx(0.25, abs=0.03) for share in shares)


def test_the_table_says_how_far_off_and_what_failed() -> None:
    def run(foretold: int, found: int) -> dict[str, object]:
        predicted = {"digest": "0123456789abcdef", "micro_tokens": 1024, "dtype": "bfloat16", "seconds": 11.0}
        return {
            "words": "a-model, lora",
            "predicted": {**predicted, "peak_bytes": foretold * 2**30},
            "measured": {"peak_bytes": found * 2**30, "seconds": 10.0},
            "steal": 0.0,
            "foreign": 0.0,
            "plateau_before": 4e11,
            "plateau_after": 4e11,
        }

    facts = {"date": "2030-01-02", "machine": {"processor": "Abacus 9"}, "settings": {"configurations": 9}}
    page = memory.markdown({**facts, "runs": [run(2, 2), run(3, 2), {"words": "b-model", "failed": "too large"}]})
    assert "3 configurations of the 9 in `memory.py`: 2 ran, once each; 1 failed or were refused." in page
    assert "Different plans among those that ran: 1." in page
    assert "Not to be quoted: fewer than five repeats" in page
    assert "Peak memory: 1 of 2 within 10%, the worst 50% off. Time: 10% off in the median." in page
    assert "| 0123456789ab | 3.00 GiB | 2.00 GiB | +50% | +10% |" in page
    assert "| b-model | – | – | – | too large | – |" in page
