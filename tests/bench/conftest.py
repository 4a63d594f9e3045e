"""The benchmark's own modules, and made-up runs and results of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))


@pytest.fixture
def make_run() -> Callable[..., dict[str, Any]]:
    """A run of 1,000 useful tokens in `seconds`, on a steady machine."""

    def make(contestant: str, repeat: int, seconds: float, **changes: Any) -> dict[str, Any]:
        facts = {
            "workload": "w1",
            "contestant": contestant,
            "repeat": repeat,
            "options": {},
            "useful_tokens": 1000,
            "supervised_tokens": 500,
            "seconds_per_step": [seconds / 2, seconds / 2],
            "peak_bytes": (2 if contestant == "sartor" else 8) * 2**30,
            "padding": 0.25,
            "wall_seconds": 20.0,
            "plateau_before": 4e11,
            "plateau_after": 4e11,
            "foreign": 0.0,
            "steal": 0.0,
            "first_loss_error_bfloat16": 0.001,
            "first_loss_error_float32": 0.007,
        }
        return {**facts, **changes}

    return make


@pytest.fixture
def make_result(make_run: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A result of five repeats of Sartor, TRL's defaults and TRL's best, at 500, 100 and 200 tokens a second."""

    def make(**changes: Any) -> dict[str, Any]:
        speeds = {"sartor": 2.0, "trl_default": 10.0, "trl_tuned": 5.0}
        facts = {
            "date": "2030-01-02",
            "kind": "",
            "machine": {"processor": "Abacus 9", "num_cores": 2, "memory_bytes": 24 * 2**30},
            "versions": {"sartor": {"torch": "2.13.0"}, "trl": {"trl": "1.16.0"}},
            "model": {"name": "a-model"},
            "settings": {
                "repeats": 5,
                "steps": 2,
                "warmup": 1,
                "threads": 2,
                "method": "lora",
                "target": None,
                "contestants": list(speeds),
            },
            "workloads": {
                "w1": {
                    "title": "short instructions",
                    "source": "a package",
                    "rows": 24,
                    "batch_size": 8,
                    "mean_length": 220.4,
                    "lengths": {"min": 60, "p5": 70, "p25": 90, "p50": 180, "p75": 300, "p95": 500, "max": 600},
                    "supervised_share": 0.5,
                    "shared_prefix": 3,
                    "flop_per_token": 5e8,
                }
            },
            "grid": [],
            "absent": {},
            "runs": [make_run(name, repeat, seconds) for repeat in range(5) for name, seconds in speeds.items()],
            "reach": [],
        }
        return {**facts, **changes}

    return make
