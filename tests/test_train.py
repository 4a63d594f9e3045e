"""The loop, with the fake backend: what it yields, in which order, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sartor import stages
from sartor.backends.ranks import Place
from sartor.data.pack import Segment, Steps, pack
from sartor.errors import DataError
from sartor.events import Warned
from sartor.plan import Choice, Estimate, Plan
from sartor.recipe import load
from sartor.stages import Bench, run_until
from sartor.store import Run, open_run
from sartor.train import decided_by, train

from .conftest import plan_for
from .survival import adapter_digest, train_once


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


def test_each_rank_takes_a_part_of_the_dev_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for place in (Place(), Place(0, 2), Place(1, 2)):
        monkeypatch.setattr("sartor.train.here", lambda place=place: place)
        begun = start(tmp_path / f"{place.rank} of {place.size}", steps=1)
        (event,) = (event for event in train(*begun, pack(rows(11), micro_tokens=8)) if event.type == "evaluated")
        parts.append(event.num_supervised)
    whole, *both = parts
    assert (whole, sum(both), max(both) < whole) == (11, 11, True)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    list(train(*start(tmp_path / "run"), []))
    again = [event.type for event in train(*start(tmp_path / "run"), [])]
    assert again == ["started", "finished"]


def test_a_plan_that_is_made_anew_on_another_machine_goes_on(tmp_path: Path) -> None:
    list(train(*start(tmp_path / "run"), []))
    measured = Estimate(peak_bytes=2, seconds=2, tokens=2)
    other = start(tmp_path / "run", save_every=2, micro_tokens=8, num_threads=4, estimate=measured)
    events = list(train(*other, []))
    assert [(event.type, event.step) for event in events] == [("started", 6), ("finished", 6)]


def test_what_another_plan_trained_is_not_gone_on_with(tmp_path: Path) -> None:
    list(train(*start(tmp_path / "run"), []))
    plan, run, steps = start(tmp_path / "run", data="more rows")
    events = list(train(plan, run, steps, []))
    assert [event.type for event in events[:4]] == ["warned", "warned", "started", "warned"]
    for event, step in zip(events, (6, 4), strict=False):
        assert isinstance(event, Warned)
        assert (event.code, event.hint) == ("skipped_checkpoint", "training begins anew")
        assert event.message.startswith(f"step-00000{step} is of another plan")
    assert [event.step for event in events if event.type == "stepped"] == [1, 2, 3, 4, 5, 6]
    assert next(train(plan, Run(run.folder), steps, [])).type == "started", "and its own are there now"


@pytest.mark.parametrize(("damaged", "step", "hint"), [(1, 4, "training goes on from step 4"), (2, 0, "begins anew")])
def test_the_hint_says_what_becomes_of_training(tmp_path: Path, damaged: int, step: int, hint: str) -> None:
    _, run, _ = begun = start(tmp_path / "run")
    list(train(*begun, []))
    for folder in run.checkpoints()[:damaged]:
        (folder / "state.json").write_text("")
    events = list(train(*start(tmp_path / "run"), []))
    told = [event for event in events if isinstance(event, Warned) and event.code == "skipped_checkpoint"]
    assert len(told) == damaged
    assert all(hint in event.hint for event in told)
    assert next(event.step for event in events if event.type == "started") == step


def test_what_decides_the_weights() -> None:
    plan = plan_for(backend="fake")

    def same(**changes: object) -> bool:
        return decided_by(plan.model_copy(update=changes)) == decided_by(plan)

    model = plan.model
    assert same(model=model.model_copy(update={"path": "/moved", "revision": "other"}), reasons={"seed": "why"})
    assert same(proof=plan.proof.model_copy(update={"items": 3}), tile=128, recompute="layer", environment={"A": "b"})
    assert not same(model=model.model_copy(update={"digest": "other"}))
    assert not same(model=model.model_copy(update={"dtype": "bfloat16"}))
    for name in ("seed", "steps", "batch_size", "learning_rate", "warmup_steps", "evaluate_every"):
        assert not same(**{name: 3})
    assert not same(data="other")
    assert not same(adapter=Choice(name="lora", settings={"r": 8}))


def test_a_run_whose_data_changed_is_trained_anew(tmp_path: Path, tiny_folder: Path) -> None:
    """What a cleaner reads is no part of the run's name: the run is the same one, and its rows are others."""
    rows = [json.dumps({"prompt": f"Add {n} and {n + 3}.", "completion": f"It is {2 * n + 3}."}) for n in range(40)]
    (tmp_path / "sums.jsonl").write_text("\n".join(rows))
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps({"prompt": "Name a river.", "completion": "The Rhine."}) + "\n")
    recipe = tmp_path / "sartor.yaml"
    recipe.write_text(
        f"model: {tiny_folder}\ntask: exact\ntune: {{steps: 1}}\n"
        "data: {train: sums.jsonl, clean: [{name: contamination, benchmarks: [benchmark.jsonl]}]}\n"
    )
    run = open_run(recipe, load(recipe))
    train_once(recipe)
    first = adapter_digest(run)
    benchmark.write_text("\n".join(rows[:9]))
    train_once(recipe)
    events = list(run.events())
    assert [event["step"] for event in events if event["type"] == "started"] == [0, 0]
    told = [event["message"] for event in events if event["type"] == "warned" and event["code"] == "skipped_checkpoint"]
    assert [message.partition(" is ")[0] for message in told] == ["step-000001"]
    assert adapter_digest(run) != first


def test_another_metric_under_the_same_name_is_another_input(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = tmp_path / "own_metric_of_a_run.py"
    metric.write_text("def score(example, output):\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [json.dumps({"prompt": f"Say {n}.", "completion": f"{n}"}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    recipe = tmp_path / "sartor.yaml"
    recipe.write_text(f"model: {tiny_folder}\ndata: rows.jsonl\ntask: {{metric: 'own_metric_of_a_run:score'}}\n")
    run = open_run(recipe, load(recipe))

    def inputs() -> str:
        bench = Bench(run)
        list(run_until(bench, "check"))
        return stages._baseline_inputs(bench)

    before = inputs()
    assert inputs() == before
    metric.write_text("def score(example, output):\n    return 0.0\n")
    assert inputs() != before


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
