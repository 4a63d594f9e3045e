"""The share of a run that computes nothing: the sum, and the stopwatch around a method."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import harness
import overhead
from contestants import whole_run

RUN = {
    "repeat": 0,
    "seconds": 10.0,
    "computing": {"A.forward": 6.0, "B.step": 3.5},
    "steal": 0.0,
    "foreign": 0.0,
    "plateau_before": 1.0,
    "plateau_after": 1.0,
}


def test_overhead_is_what_computing_leaves() -> None:
    assert overhead.share(RUN) == pytest.approx(0.05)
    facts = {"date": "2030-01-02", "machine": {"processor": "Abacus 9"}, "settings": {"threads": 2}}
    page = overhead.markdown({**facts, "runs": [RUN]})
    assert "| 1 | 10 s | 6 s | 4 s | 5.0% | ≤ 10% |" in page


def test_the_wall_time_is_that_of_the_process_without_the_plateaus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls.jsonl"
    calls.write_text("", encoding="utf-8")
    monkeypatch.setattr(overhead, "CALLS", calls)
    found = {"computing": {"A.forward": 1.0}, "wall_seconds": 4.0, "plateau_before": 1.0}
    monkeypatch.setattr(harness.Machine, "measured", lambda *_: dict(found))
    run = {"repeat": 2, "seconds": 4.0, "computing": {"A.forward": 1.0}, "plateau_before": 1.0}
    assert overhead.one(harness.Machine(1), 2) == run


def test_the_stopwatch_adds_up_and_passes_everything_through() -> None:
    seconds: Counter[str] = Counter()

    class Machine:
        def work(self, value: int, *, fails: bool = False) -> int:
            if fails:
                raise ValueError("broken")
            return value + 1

    worked: Any = whole_run.timed(Machine.work, "work", seconds)
    assert worked(Machine(), 1) == 2
    once = seconds["work"]
    with pytest.raises(ValueError, match="broken"):
        worked(Machine(), 1, fails=True)
    assert 0 < once < seconds["work"]
