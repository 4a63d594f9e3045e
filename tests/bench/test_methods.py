"""The comparison of methods: which runs are made, and what its pages say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import methods
import methods_report
import quantised

Json = dict[str, Any]
FACTS: Json = {"date": "2030-01-02", "model": "a-model", "machine": {"processor": "Abacus 9", "num_cores": 2}}


def test_the_most_used_have_three_seeds_and_all_begin_before_any_is_repeated() -> None:
    runs = list(methods.plan_of_runs(["ia3", "lora", "vera"]))
    assert runs[:3] == [("ia3", 17), ("lora", 17), ("vera", 17)]
    assert runs[3:] == [("ia3", 18), ("lora", 18), ("ia3", 19), ("lora", 19)]
    assert len(methods.MOST_USED) == 10


def test_a_method_that_stays_at_its_base_is_named_with_the_reason() -> None:
    page = methods_report.markdown({**FACTS, "runs": [run("lora", 0.8), run("attention_fusion", 0.1)], "absent": {}})
    assert "| `lora` | 80.0 % | – | 1 | 0.01 | 100 | 1.00 MiB | 2.00 GiB | 0.99 × |" in page
    assert "The untuned base: 10.0 %." in page
    assert "p ≥ 0.05): `attention_fusion` (its 608 numbers" in page


def test_the_settings_and_the_interval_of_the_first_seed_are_said() -> None:
    runs = [{**run("lora", 0.8), "low": 0.7, "high": 0.875}, {**run("lora", 0.9), "seed": 18, "low": 0.8, "high": 1.0}]
    settings = {"seeds": [17, 18], "steps": 40, "batch_size": 4}
    page = methods_report.markdown({**FACTS, "runs": runs, "absent": {}, "settings": settings})
    assert "40 steps of 4 examples; seeds 17, 18, or the first alone." in page
    assert "| `lora` | 85.0 % ± 7.1 | 70.0–87.5 % | 2 |" in page
    assert "not told apart" in page


def test_what_is_not_to_be_quoted_is_published_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods_report, "MEASURED", tmp_path / "methods.json")
    result = {**FACTS, "kind": "methods-cost", "settings": {"repeats": 1}, "costs": [cost("lora", 0, 2.0)]}
    (tmp_path / "2030-01-02-abacus-9-methods-cost.json").write_text(json.dumps(result), encoding="utf-8")
    methods_report.publish(tmp_path)
    said = json.loads((tmp_path / "methods.json").read_text(encoding="utf-8"))
    assert said["cost"] == "2030-01-02, Abacus 9 (not to be quoted: fewer than five repeats)"
    assert said["score"] == ""


def test_costs_are_multiples_of_lora_in_the_same_round() -> None:
    costs = [cost("lora", 0, 2.0), cost("ia3", 0, 1.0), cost("lora", 1, 4.0), cost("ia3", 1, 2.0), cost("ia3", 2, 1.0)]
    assert methods_report.relative(costs) == {"lora": (1.0, 1.0), "ia3": (2.0, 1.0)}


def test_four_bits_stand_beside_the_bars() -> None:
    runs = [
        cost(method, repeat, 2.0 if method == "lora" else 2.2) for repeat in range(5) for method in quantised.METHODS
    ]
    base = {"whole": 1000, "packed": 310, "buffer": 20}
    settings = {"threads": 2, "repeats": 5, "steps": 1}
    page = quantised.markdown({**FACTS, "runs": runs, "base": base, "settings": settings})
    assert "| speed beside LoRA | 0.91 × [0.91, 0.91] | ≥ 0.85 × |" in page
    assert "| base, of its bytes in bf16 | 0.330 | ≤ 0.35 |" in page
    assert "Not to be quoted" not in page


def run(method: str, tuned: float) -> Json:
    """A run of a method on a base that reaches 0.1."""
    return {
        "method": method,
        "seed": 17,
        "tuned": tuned,
        "untuned": 0.1,
        "p": 0.01 if tuned > 0.1 else 1.0,
        "forgetting": -0.01,
        "trainable": 100,
        "peak_bytes": 2 * 2**30,
        "disk_bytes": 2**20,
    }


def cost(method: str, repeat: int, seconds: float) -> Json:
    """One measured step of 100 tokens on a steady machine."""
    return {
        "method": method,
        "repeat": repeat,
        "useful_tokens": 100,
        "seconds_per_step": [seconds],
        "peak_bytes": 2**30,
        "steal": 0.0,
        "foreign": 0.0,
        "plateau_before": 1e11,
        "plateau_after": 1e11,
    }
