"""The loop, with the fake backend: what it yields, in which order, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor.data.pack import Segment, Steps, pack
from sartor.errors import DataError
from sartor.plan import Plan
from sartor.store import Run
from sartor.train import train

from .conftest import plan_for


def rows(count: int = 12, weight: float = 1.0) -> list[Segment]:
    return [Segment(f"row {n}", (n, n + 1), (n + 1, n + 2), (0.0, weight)) for n in range(count)]


def start(folder: Path, *, weight: float = 1.0, **changes: object) -> tuple[Plan, Run, Steps]:
    plan = plan_for(backend="fake", **{"steps": 6, "save_every": 4, "evaluate_every": 3, "clip": 0.0, **changes})
    steps = Steps([[row] for row in rows(weight=weight)], batch_size=4, micro_tokens=4, seed=1)
    folder.mkdir(exist_ok=True)
    return plan, Run(folder), steps


def test_events_come_in_order_and_the_loss_falls(tmp_path: Path) -> None:
    plan, run, steps = start(tmp_path / "run", learning_rate=1.0)
    events = list(train(plan, run, steps, pack(rows(), micro_tokens=8)))
    kinds = [event.type for event in events]
    assert kinds == [
        "started", "warned", "stepped", "stepped", "stepped", "evaluated", "stepped", "saved", "stepped", "stepped",
        "evaluated", "saved", "finished",
    ]  # fmt: skip
    losses = [event.loss for event in events if event.type == "stepped"]
    assert losses[-1] < losses[0]
    assert events[1].code == "memory_estimate", "the rehearsal met more than the one byte that was foretold"
    first = events[2]
    assert (first.num_tokens, first.num_supervised, first.lr) == (8, 4, plan.lr(0))
    assert (tmp_path / "run/adapter/manifest.json").is_file()


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    list(train(*start(tmp_path / "run"), []))
    again = [event.type for event in train(*start(tmp_path / "run"), [])]
    assert again == ["started", "finished"]


def test_micro_batches_do_not_change_the_mathematics(tmp_path: Path) -> None:
    losses = []
    for micro_tokens in (2, 4, 100):
        plan, run, _ = start(tmp_path / f"run{micro_tokens}")
        steps = Steps([[row] for row in rows()], batch_size=4, micro_tokens=micro_tokens, seed=1)
        losses.append([event.loss for event in train(plan, run, steps, []) if event.type == "stepped"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)


def test_ranks_say_that_nothing_was_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"TORCHELASTIC_RUN_ID": "fake", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    events = list(train(*start(tmp_path / "run"), []))
    assert [event.code for event in events if event.type == "warned"] == ["no_rehearsal"]
    again = list(train(*start(tmp_path / "run"), []))
    assert [event.type for event in again] == ["started", "finished"], "said once, not on resuming"


def test_a_step_without_a_trained_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="step 1 has no trained token"):
        list(train(*start(tmp_path / "run", weight=0.0), []))
