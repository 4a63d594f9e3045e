"""The benchmark's pure parts: its workloads, the peers' best order, and the report of a made-up result."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sartor.errors import DataError, Refused
from sartor.hub import Shape

BENCH = Path(__file__).parents[1] / "bench"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name.replace('/', '_')}", BENCH / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


workload = load("workload")
report = load("report")
common = load("contestants/common")

SMOLLM2 = Shape(
    num_layers=30,
    hidden=576,
    inner=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab=49152,
    tied=True,
    context=8192,
)

MODULE = '''
import os

LIMIT = 3

def double(
    number: int,
) -> int:
    """Twice
    the number.

    Example: double(2) == 4
    """
    # by adding
    return number + number

def _private(x):
    """Hidden."""
    return x

def undocumented(x):
    return x

def only_words():
    """Nothing else."""

class Kept:
    def method(self):
        """Not at top level."""
        return 1
'''


def test_a_function_becomes_its_signature_and_its_body() -> None:
    assert list(workload.functions_of(MODULE)) == [
        ("Twice the number.\n\ndef double(\n    number: int,\n) -> int:", "# by adding\nreturn number + number")
    ]


def test_functions_come_from_modules_that_are_no_tests_and_are_not_too_long(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "tests").mkdir(parents=True)
    (package / "a.py").write_text(MODULE, encoding="utf-8")
    (package / "tests" / "test_a.py").write_text(MODULE, encoding="utf-8")
    (package / "long.py").write_text(f'def long():\n    """Long."""\n    return {"1" * 3000!r}\n', encoding="utf-8")
    assert len(workload.read_functions(package)) == 1


def test_a_missing_source_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as calls:
        workload.read_calls(tmp_path / "calls.jsonl")
    with pytest.raises(DataError) as package:
        workload.read_functions(tmp_path / "package")
    assert "demo_data.py" in calls.value.hint
    assert "setup.sh" in package.value.hint


def test_calls_are_read_as_turns(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    messages = [{"role": "user", "content": "f(x)"}, {"role": "assistant", "content": "f(x=1)"}]
    path.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    assert workload.read_calls(path) == [(("user", "f(x)"), ("assistant", "f(x=1)"))]


def test_rows_are_rendered_once_masked_and_shuffled_alike(smollm2_folder: Path, smollm2_tokenizer: Any) -> None:
    chats = [(("user", f"Say {word}."), ("assistant", word)) for word in ("one", "two", "three", "four", "one")]
    first, second = (workload.render("demo", "here", chats, smollm2_folder) for _ in range(2))
    assert len(first.ids) == 4
    assert first == second
    assert first.digest == second.digest
    answers = set()
    for ids, labels in zip(first.ids, first.labels, strict=True):
        assert len(ids) == len(labels)
        trained = [label for label in labels if label != common.IGNORED]
        assert all(label in (token, common.IGNORED) for token, label in zip(ids, labels, strict=True))
        answers.add(smollm2_tokenizer.decode(trained))
    assert answers == {f"{word}<|im_end|>" for word in ("one", "two", "three", "four")}


def test_a_workload_is_cut_but_never_stretched(tmp_path: Path) -> None:
    whole = workload.Workload("demo", "here", ((1, 2), (3, 4), (5, 6)), ((-100, 2), (-100, 4), (-100, 6)))
    assert whole.first(2).ids == ((1, 2), (3, 4))
    assert whole.first(2).digest != whole.digest
    with pytest.raises(DataError, match="3 rows, not 4"):
        whole.first(4)
    whole.write(tmp_path / "demo.json")
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))["labels"][1] == [-100, 4]


def test_a_workload_is_described_by_its_lengths_and_its_work() -> None:
    ids = (tuple(range(256)),) * 3
    labels = ((-100,) * 128 + tuple(range(128)),) * 3
    facts = workload.describe(workload.Workload("demo", "here", ids, labels), SMOLLM2, rank=16)
    assert facts["rows"] == 3
    assert facts["mean_length"] == 256
    assert facts["supervised_share"] == 0.5
    # By hand: frozen 4 × 106.17 M, adapters 6 × 4.88 M, head 4 × 28.31 M / 2, attention 3.5 × 2 × 576 × 30 × 256.
    assert facts["flop_per_token"] == pytest.approx(424.67e6 + 29.31e6 + 56.62e6 + 30.97e6, rel=1e-3)


def test_the_peers_best_order_keeps_every_row_and_puts_equal_lengths_side_by_side() -> None:
    lengths = [(37 * row) % 101 for row in range(80)]
    order = common.grouped(lengths)
    steps = [[lengths[row] for row in order[start : start + 8]] for start in range(0, 80, 8)]
    assert sorted(order) == list(range(80))
    assert all(max(step) - min(step) <= 15 for step in steps)
    assert [min(step) for step in steps] != sorted(min(step) for step in steps)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A benchmark that knows its references already: 2 rows of 2 supervised tokens, a mean loss of 1 in bf16."""
    monkeypatch.syspath_prepend(BENCH)
    spine = importlib.import_module("spine")
    known = {(dtype, "demo", row): total for dtype, total in (("bfloat16", 2.0), ("float32", 2.02)) for row in (0, 1)}
    return spine.Bench(model=Path(), threads=1, warmup=1, environment={}, reference=known)


DEMO = workload.Workload("demo", "here", ((1, 2, 3), (4, 5, 6)), ((-100, 2, 3), (-100, 5, 6)))
HONEST = {"trained_tokens": 4, "supervised_tokens": 4, "first_loss": 1.004, "first_rows": [1, 0]}


def test_the_judge_passes_honest_work_and_says_how_far_it_is(bench: Any) -> None:
    errors = bench.judge("someone", DEMO, HONEST, steps=1)
    assert errors["first_loss_error_bfloat16"] == pytest.approx(0.004)
    assert errors["first_loss_error_float32"] == pytest.approx(1 - 1.004 / 1.01)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"trained_tokens": 6}, "trained 6 tokens, not 4"),
        ({"trained_tokens": 3}, "trained 3 tokens, not 4"),
        ({"first_loss": 1.02}, "first loss 1.0200, reference 1.0000"),
        ({"first_loss": float("nan")}, "first loss nan"),
    ],
    ids=["every token", "a token lost", "another loss", "nan"],
)
def test_the_judge_refuses_other_work(bench: Any, fault: dict[str, float], words: str) -> None:
    with pytest.raises(Refused, match=words):
        bench.judge("someone", DEMO, {**HONEST, **fault}, steps=1)


def test_the_best_point_of_each_workload_wins(bench: Any) -> None:
    points = [
        fake_run("trl_tuned", 0, seconds, options={"micro_batch": size}) for size, seconds in ((2, 3.0), (4, 2.0))
    ]
    assert importlib.import_module("spine").best_of(points) == {"code": {"micro_batch": 4}}


def fake_run(contestant: str, repeat: int, seconds: float, **changes: Any) -> dict[str, Any]:
    facts = {
        "workload": "code",
        "contestant": contestant,
        "repeat": repeat,
        "options": {},
        "useful_tokens": 1000,
        "supervised_tokens": 500,
        "seconds_per_step": [seconds / 2, seconds / 2],
        "peak_bytes": (2 if contestant == "sartor" else 8) * 2**30,
        "padding": 0.25,
        "plateau_before": 4e11,
        "plateau_after": 4e11,
        "foreign": 0.0,
        "steal": 0.0,
        "first_loss_error_bfloat16": 0.001,
        "first_loss_error_float32": 0.007,
    }
    return {**facts, **changes}


def fake_result(runs: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    facts = {
        "date": "2030-01-02",
        "machine": {"processor": "Abacus 9", "num_cores": 2, "memory_bytes": 24 * 2**30},
        "versions": {"sartor": {"torch": "2.13.0"}, "TRL": {"trl": "1.16.0"}},
        "settings": {"repeats": 5, "steps": 2, "warmup": 1, "threads": 2, "contestants": ["sartor", "trl_tuned"]},
        "workloads": {
            "code": {
                "source": "a package",
                "rows": 24,
                "mean_length": 220.4,
                "lengths": {"min": 60, "p5": 70, "p50": 180, "p95": 500, "max": 600},
                "supervised_share": 0.5,
                "flop_per_token": 5e8,
            }
        },
        "grid": [],
        "runs": runs,
    }
    return {**facts, **changes}


RUNS = [
    fake_run(name, repeat, seconds) for repeat in range(5) for name, seconds in (("sartor", 2.0), ("trl_tuned", 5.0))
]


def test_the_table_gives_rates_ratios_memory_and_the_share_of_the_plateau() -> None:
    page = report.markdown(fake_result(RUNS))
    assert "| Sartor | 500 (500–500) | 250 | 25% | 62% | 2.00 GiB | – | – |" in page
    assert "| TRL, best found | 200 (200–200) | 100 | 25% | 25% | 8.00 GiB | 2.50 × [2.50, 2.50] | 0.25 × |" in page
    assert "24 rows from a package: 220 tokens on average (60 to 600, median 180), 50% supervised" in page
    assert "Abacus 9" in page
    assert "within 0.10% of plain transformers in bf16, 0.70% of it in fp32" in page
    assert "trl 1.16.0" in page
    assert "Not to be quoted" not in page


def test_ratios_pair_repeats_and_their_interval_covers_them() -> None:
    middle, low, high = report.paired_ratio([100.0, 220.0, 330.0], [50.0, 100.0, 150.0])
    assert (middle, low, high) == (2.2, 2.0, 2.2)
    slow_then_fast = report.paired_ratio([100.0, 1000.0], [50.0, 500.0])  # a machine that changes hurts no ratio
    assert slow_then_fast == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "change", [{"plateau_after": 3e11}, {"foreign": 0.3}, {"steal": 0.05}], ids=["drift", "foreign", "steal"]
)
def test_an_unsteady_machine_is_said_at_the_top(change: dict[str, float]) -> None:
    page = report.markdown(fake_result([*RUNS[:-1], {**RUNS[-1], **change}]))
    assert "**Not to be quoted: in 1 of 10 runs" in page.split("###")[0]


def test_one_repeat_has_no_interval() -> None:
    result = fake_result(RUNS[:2])
    result["settings"]["repeats"] = 1
    page = report.markdown(result)
    assert "2.50 × (one repeat, no interval)" in page
    assert "fewer than five repeats" in page


def test_the_grid_is_shown_against_its_best() -> None:
    grid = [
        fake_run("trl_tuned", 0, seconds, options={"layout": layout, "micro_batch": 4})
        for layout, seconds in (("grouped", 5.0), ("flat", 10.0))
    ]
    page = report.markdown(fake_result(RUNS, grid=grid))
    assert "| code | grouped | 4 | 100% | 25% | 8.00 GiB |" in page
    assert "| code | flat | 4 | 50% | 25% | 8.00 GiB |" in page
    assert "taken for granted" not in page
    assert "taken for granted" in report.markdown(fake_result(RUNS))
