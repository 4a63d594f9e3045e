"""The training benchmark's spine: the judge, who is left out, the grid, and what stops everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import harness
import peers
import report
import train
import workload
from harness import Machine
from sartor.errors import MachineError, Refused

DEMO = workload.Workload("demo", "here", 2, ((1, 2, 3), (4, 5, 6)), ((-100, 2, 3), (-100, 5, 6)))
HONEST = {
    "useful_tokens": 6,
    "supervised_tokens": 4,
    "trained_tokens": 4,
    "first_loss": 1.004,
    "first_groups": [[1, 0]],
}


class Scripted(train.Bench):
    """A benchmark whose runs are given: a result, or the error that a contestant ends with."""

    given: dict[str, Any]

    def run(self, name: str, workload: str, *, steps: int, options: Any) -> Any:
        found = self.given[name]
        if isinstance(found, Exception):
            raise found
        return dict(found)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """It knows its references already: 2 rows of 2 supervised tokens, a mean loss of 1 in bf16, which judges."""
    monkeypatch.setattr(harness, "dtype", lambda: "bfloat16")
    known = {(dtype, "demo", row): total for dtype, total in (("bfloat16", 2.0), ("float32", 2.02)) for row in (0, 1)}
    return Scripted(model=Path(), machine=Machine(1), warmup=0, reference=known)


def test_the_judge_passes_honest_work_and_says_how_far_it_is(bench: Any) -> None:
    errors = bench.judge("someone", DEMO, HONEST, steps=1)
    assert errors["first_loss_error_bfloat16"] == pytest.approx(0.004)
    assert errors["first_loss_error_float32"] == pytest.approx(1 - 1.004 / 1.01)


def test_a_mean_of_means_is_judged_by_a_mean_of_means(bench: Any) -> None:
    bench.reference["bfloat16", "demo", 0] = 4.0  # a mean of 2 and of 1: 1.5 either way, as both rows train 2 tokens
    assert bench.mean_loss("bfloat16", DEMO, [[0], [1]]) == pytest.approx(1.5)
    longer = workload.Workload("demo", "here", 2, DEMO.ids, ((1, 2, 3), (-100, -100, 6)))
    assert bench.mean_loss("bfloat16", longer, [[0], [1]]) != bench.mean_loss("bfloat16", longer, [[0, 1]])


FAULTS = [
    ({"trained_tokens": 6}, "trained 6 tokens, not 4"),
    ({"trained_tokens": 3}, "trained 3 tokens, not 4"),
    ({"useful_tokens": 7}, "measured 7 useful tokens, not 6"),
    ({"supervised_tokens": 5, "trained_tokens": 5}, "measured 5 supervised tokens, not 4"),
    ({"first_loss": 1.02}, "first loss 1.0200, reference 1.0000"),
    ({"first_loss": float("nan")}, "first loss nan"),
]


@pytest.mark.parametrize(
    ("fault", "words"), FAULTS, ids=["every token", "a token lost", "other rows", "other labels", "another loss", "nan"]
)
def test_the_judge_refuses_other_work(bench: Any, fault: dict[str, float], words: str) -> None:
    with pytest.raises(Refused, match=words):
        bench.judge("someone", DEMO, {**HONEST, **fault}, steps=1)


@pytest.mark.parametrize(
    "fault", [{"trained_tokens": 3}, MachineError("no memory", hint="less")], ids=["cheat", "crash"]
)
def test_a_peer_that_fails_is_left_out_with_its_reason(bench: Any, fault: Any) -> None:
    bench.given = {"trl_tuned": fault if isinstance(fault, Exception) else {**HONEST, **fault}}
    absent: dict[str, Any] = {}
    assert train.attempt(bench, "trl_tuned", DEMO, steps=1, options={}, absent=absent) is None
    assert "no memory" in absent["trl_tuned"]["demo"] or "trained 3" in absent["trl_tuned"]["demo"]


def test_our_own_failure_stops_everything(bench: Any) -> None:
    bench.given = {"sartor": MachineError("no memory", hint="less")}
    with pytest.raises(MachineError, match="no memory"):
        train.attempt(bench, "sartor", DEMO, steps=1, options={}, absent={})


def test_a_contestant_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.harness, "CACHE", tmp_path)
    absent: dict[str, Any] = {}
    assert train.ready("sartor", absent)
    assert not train.ready("litgpt_tuned", absent)
    assert absent == {"litgpt_tuned": {"everywhere": "not installed: bash bench/setup.sh litgpt"}}


def test_the_best_point_of_each_workload_and_peer_wins(make_run: Any) -> None:
    points = [
        make_run(name, 0, seconds, options={"micro_batch": size})
        for name, size, seconds in (("trl_tuned", 2, 3.0), ("trl_tuned", 4, 2.0), ("hf_tuned", 2, 1.0))
    ]
    assert train.best_of(points) == {("w1", "trl_tuned"): {"micro_batch": 4}, ("w1", "hf_tuned"): {"micro_batch": 2}}


def test_the_best_point_is_the_fastest_for_the_machine_of_its_minutes(make_run: Any) -> None:
    slowed = make_run("trl_tuned", 0, 3.0, options={"micro_batch": 2}, plateau_before=1e11, plateau_after=1e11)
    points = [slowed, make_run("trl_tuned", 0, 2.0, options={"micro_batch": 4})]
    assert train.best_of(points) == {("w1", "trl_tuned"): {"micro_batch": 2}}


def test_the_grid_goes_on_from_its_best_and_keeps_what_failed(
    bench: Any, monkeypatch: pytest.MonkeyPatch, make_run: Any
) -> None:
    seconds = {"grouped": 3.0, "rebalance": 2.0}

    def attempt(*_: Any, options: Any, absent: Any, **__: Any) -> Any:
        if options["layout"] == "flat":
            absent["trl_tuned"] = {"demo": "no flash attention"}
            return None
        return make_run("trl_tuned", 0, seconds[options["layout"]], workload="demo", options=options)

    monkeypatch.setattr(train, "attempt", attempt)
    points = train.search(bench, {"demo": DEMO}, ["sartor", "trl_tuned"])
    failed = [point for point in points if "failed" in point]
    assert [(point["options"]["layout"], point["failed"]) for point in failed] == [("flat", "no flash attention")]
    assert points[-1]["options"] == {"layout": "rebalance", "micro_batch": 2, "attention": "eager"}
    assert train.best_of(points)["demo", "trl_tuned"]["layout"] == "rebalance"


def test_nothing_measured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find", lambda _: type("Base", (), {"folder": Path()}))
    monkeypatch.setattr(train, "prepare", lambda *_: DEMO)
    asked = train.parse(["--method", "full", "--contestants", "litgpt_tuned", "--workloads", "w1"])
    with pytest.raises(MachineError, match="nothing was measured"):
        train.measure(asked)


def test_a_target_without_a_race_to_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.parse(["--target", "1.5"])
    assert "give --to-loss too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ([], ""),
        (["--workloads", "w4"], "w4"),
        (["--workloads", "w2", "w1", "--method", "full"], "full-w1-w2"),
        (["--method", "full", "--to-loss"], "full-to-loss"),
    ],
)
def test_a_result_of_some_workloads_is_another_kind(asked: list[str], kind: str) -> None:
    assert train.kind(train.parse(asked)) == kind
    assert report.section(kind) in report.SECTIONS


@pytest.mark.parametrize(("own", "dtype"), [({"rows": [0]}, "bfloat16"), ({"dtype": "float32"}, "float32")])
def test_every_script_is_told_everyones_type_unless_it_has_its_own(bench: Any, own: Any, dtype: str) -> None:
    assert json.loads(bench.arguments("demo", 1, own)[-1])["dtype"] == dtype


def test_the_grid_tries_every_layout_and_size_that_a_step_has(monkeypatch: pytest.MonkeyPatch) -> None:
    points = peers.CONTESTANTS["trl_tuned"].grid(8, "lora")
    assert {point["layout"] for point in points} == {"grouped", "rebalance", "flat"}
    assert {point["micro_batch"] for point in points} == {1, 2, 4, 8}
    assert peers.CONTESTANTS["trl_tuned"].grid(1, "lora") == [{"layout": "grouped", "micro_batch": 1}]
    for everyones, tried in (("bfloat16", {"bfloat16", "float32"}), ("float32", {"float32"})):
        monkeypatch.setattr(peers, "dtype", lambda everyones=everyones: everyones)
        full = peers.CONTESTANTS["hf_tuned"].grid(2, "full")
        assert {point.get("dtype", everyones) for point in full} == tried


def test_every_contestant_has_its_script() -> None:
    folder = Path(train.__file__).parent / "contestants"
    assert all((folder / contestant.script).is_file() for contestant in peers.CONTESTANTS.values())
