"""The rehearsal: it meets the worst step, leaves no trace, and says when the estimate was wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor import durable, rehearse, train
from sartor.backends import open_backend
from sartor.backends.fake import FakeBackend
from sartor.data.pack import Segment, Steps, pack, segment
from sartor.errors import MachineError, NumericsError
from sartor.events import Event, Warned
from sartor.names import resolve
from sartor.plan import Choice, Estimate, Memory, Plan
from sartor.store import Run
from sartor.types import Batch, Sums

from .conftest import plan_for

MakePlan = Callable[..., Plan]


def examples() -> list[list[Segment]]:
    """Twelve of different lengths, the longest the ninth; one that trains nothing is longer still."""
    lengths = [3, 5, 4, 6, 3, 8, 5, 4, 14, 7, 5, 6]
    made = [[segment(f"row {n}", range(n, n + size), [0.0] + [1.0] * (size - 1))] for n, size in enumerate(lengths)]
    return [*made, [segment("untrained", range(20), [0.0] * 20)]]


def steps_of(plan: Plan) -> Steps:
    return Steps(examples(), batch_size=plan.batch_size, micro_tokens=plan.micro_tokens, seed=plan.seed)


def dev_of(plan: Plan) -> list[Batch]:
    return pack([item for members in examples()[:3] for item in members], micro_tokens=plan.micro_tokens)


def start(folder: Path, plan: Plan) -> tuple[Plan, Run, Steps, list[Batch]]:
    folder.mkdir(parents=True)
    return plan, Run(folder), steps_of(plan), dev_of(plan)


def fake(**changes: Any) -> Plan:
    return plan_for(backend="fake", **{"steps": 6, "save_every": 4, "micro_tokens": 16, **changes})


class Recording(FakeBackend):
    """Notes what it is asked for."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.asked: list[str] = []
        self.rows: list[tuple[str, ...]] = []

    def forward_backward(self, batch: Batch, objective: Any, config: Any, weight: float, *, grad: bool = True) -> Sums:
        self.asked.append("backward" if grad else "evaluate")
        self.rows.append(batch.rows)
        return super().forward_backward(batch, objective, config, weight, grad=grad)

    def step(self, adam: Any) -> float:
        self.asked.append("step")
        return super().step(adam)

    def save(self, folder: Path) -> None:
        self.asked.append("save")
        super().save(folder)

    def load(self, folder: Path) -> None:
        self.asked.append("load")
        super().load(folder)


class Forgetful(FakeBackend):
    """Its `load` brings the weights back, but not the optimizer's state: the fault that the rehearsal must find."""

    def load(self, folder: Path) -> None:
        velocity = self._velocity_VV
        super().load(folder)
        self._velocity_VV = velocity


def without(plan: Plan, run: Run, backend: Any, steps: Steps, dev: Sequence[Batch]) -> Iterator[Event]:
    yield from ()


def adapter(folder: Path, plan: Plan) -> str:
    list(train.train(*start(folder, plan)))
    return durable.sha256(folder / "adapter/adapter_model.safetensors")


def test_it_meets_every_phase_in_order(tmp_path: Path) -> None:
    plan, run, steps, dev = start(tmp_path / "run", fake())
    backend = Recording(plan)
    list(rehearse.rehearse(plan, run, backend, steps, dev))
    assert backend.asked == ["save", "backward", "step", "evaluate", "save", "load", "save"]


def test_the_worst_are_the_fullest_and_the_one_with_the_longest_segment(tmp_path: Path) -> None:
    plan = fake(steps=4, micro_tokens=15)
    backend = Recording(plan)
    list(rehearse.rehearse(*start(tmp_path / "run", plan)[:2], backend, steps_of(plan), []))
    sft = resolve("objectives", "sft")
    seen = [batch for _, step in zip(range(4), steps_of(plan), strict=False) for batch in step if sft.weight(batch)]
    rehearsed = [batch for batch in seen if batch.rows in backend.rows]
    assert max(batch.num_tokens for batch in rehearsed) == max(batch.num_tokens for batch in seen)
    assert any("row 8" in batch.rows for batch in rehearsed), "the longest that trains something"
    assert len(backend.rows) <= 2, "about one step, not an epoch"


def shared_examples() -> list[list[Segment]]:
    """Six of 620 tokens that begin with the same 600, 720 to compute; and two of 500 with nothing in common."""
    common = list(range(600))
    rows = [[*common, *range(1000 * n, 1000 * n + 21)] for n in range(1, 7)]
    rows += [list(range(first, first + 501)) for first in (20_000, 30_000)]
    return [[segment(f"row {n}", ids, [0.0] + [1.0] * (len(ids) - 1))] for n, ids in enumerate(rows)]


def test_the_fullest_is_the_one_that_computes_the_most(tmp_path: Path) -> None:
    plan = fake(steps=1, batch_size=8, micro_tokens=1000)
    data = shared_examples()
    dev = pack([item for members in data for item in members], micro_tokens=1000, share=True)
    assert sorted(batch.num_tokens for batch in dev) == [1000, 3720]
    asked: dict[bool, list[set[str]]] = {}
    for share in (True, False):
        backend, steps = Recording(plan), Steps(data, batch_size=8, micro_tokens=1000, seed=1, share=share)
        (tmp_path / str(share)).mkdir()
        list(rehearse.rehearse(plan, Run(tmp_path / str(share)), backend, steps, dev))
        asked[share] = [set(rows) for rows in backend.rows]
    fullest, longest, evaluated = asked[True]
    assert fullest == evaluated == {"row 6", "row 7"}
    assert longest == {f"row {n}" for n in range(6)}
    assert asked[False][-1] == longest, "where nothing is shared, it is the one with the most tokens"


def test_the_one_with_the_most_logits_is_met_as_well(tmp_path: Path) -> None:
    """Of two rows of one length one is supervised in one place, the other in five; a third is longer than both."""
    rows = [("few", 9, 1), ("most", 9, 5), ("long", 12, 2)]
    data = [[segment(name, range(size), [0.0] * (size - count) + [1.0] * count)] for name, size, count in rows]
    plan = fake(steps=1, batch_size=3, micro_tokens=12)
    backend, steps = Recording(plan), Steps(data, batch_size=3, micro_tokens=12, seed=1)
    (tmp_path / "run").mkdir()
    list(rehearse.rehearse(plan, Run(tmp_path / "run"), backend, steps, []))
    assert backend.rows == [("long",), ("most",)]


def test_virtual_tokens_make_the_batch_of_many_rows_the_worst(tmp_path: Path) -> None:
    data = [[segment(f"row {n}", range(n, n + 5), [0.0] + [1.0] * 4)] for n in range(4)]
    data.append([segment("alone", range(19), [0.0] + [1.0] * 18)])
    plan = fake(steps=1, batch_size=5, micro_tokens=18)
    for virtual, fullest in ((0, {"alone"}), (10, {f"row {n}" for n in range(4)})):
        adapter = Choice(name="prompt_tuning", settings={"tokens": virtual}) if virtual else plan.adapter
        steps = Steps(data, batch_size=5, micro_tokens=18, seed=1)
        folder = tmp_path / str(virtual)
        folder.mkdir()
        backend = Recording(plan)
        list(rehearse.rehearse(plan.model_copy(update={"adapter": adapter}), Run(folder), backend, steps, []))
        assert set(backend.rows[0]) == fullest


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    plan, run, steps, dev = start(tmp_path / "run", fake())
    backend = open_backend(plan)
    before = backend._table_VV.detach().clone()  # type: ignore[attr-defined]
    list(rehearse.rehearse(plan, run, backend, steps, dev))
    assert torch.equal(before, backend._table_VV)  # type: ignore[attr-defined]
    assert not backend._velocity_VV.any()  # type: ignore[attr-defined]
    assert steps.position == 0
    assert list(run.folder.iterdir()) == []


def test_the_adapter_is_the_same_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = adapter(tmp_path / "with", fake())
    monkeypatch.setattr(train, "rehearse", without)
    assert adapter(tmp_path / "without", fake()) == wanted


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_adapter_of_a_real_model_is_the_same_without_it(
    tmp_path: Path, tiny_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    settings = {"name": "lora", "settings": {"r": 4, "dropout": dropout}}
    plan = make_plan(tiny_folder, steps=4, save_every=4, evaluate_every=4, adapter=settings)
    wanted = adapter(tmp_path / "with", plan)
    monkeypatch.setattr(train, "rehearse", without)
    assert adapter(tmp_path / "without", plan) == wanted


def test_a_run_that_goes_on_is_not_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, run, steps, dev = start(tmp_path / "run", fake())
    for event in train.train(plan, run, steps, dev):
        run.stopping = event.type == "saved"

    def never(*arguments: Any) -> Iterator[Event]:
        raise AssertionError("rehearsed again")
        yield

    monkeypatch.setattr(train, "rehearse", never)
    assert list(train.train(plan, Run(run.folder), steps_of(plan), dev))[-1].type == "finished"


def test_what_does_not_come_back_is_found(tmp_path: Path) -> None:
    plan, run, steps, dev = start(tmp_path / "run", fake())
    with pytest.raises(MachineError, match="left its traces"):
        list(rehearse.rehearse(plan, run, Forgetful(plan), steps, dev))
    assert list(run.folder.iterdir()) == []


def test_a_loss_that_is_not_finite_is_met_before_the_first_step(tmp_path: Path) -> None:
    plan, run, _, dev = start(tmp_path / "run", fake())
    rows = [[segment(f"row {n}", (1, 2, 3), (0.0, 1.0, float("nan")))] for n in range(4)]
    steps = Steps(rows, batch_size=4, micro_tokens=16, seed=1)
    with pytest.raises(NumericsError, match="row 1"):
        list(rehearse.rehearse(plan, run, open_backend(plan), steps, dev))


def test_rows_that_train_nothing_are_left_to_the_loop(tmp_path: Path) -> None:
    plan, run, _, _ = start(tmp_path / "run", fake())
    steps = Steps([[segment("row", (1, 2, 3), (0.0, 0.0, 0.0))]], batch_size=2, micro_tokens=16, seed=1)
    backend = Recording(plan)
    list(rehearse.rehearse(plan, run, backend, steps, []))
    assert backend.asked == ["save", "save", "load", "save"]


@pytest.mark.parametrize(("share", "warned"), [(1.0, False), (1.08, False), (0.93, False), (1.2, True), (0.5, True)])
def test_an_estimate_that_is_off_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, warned: bool
) -> None:
    foretold = 10**10
    monkeypatch.setattr(rehearse, "peak_bytes", lambda: int(foretold * share))
    plan, run, steps, dev = start(tmp_path / "run", fake(estimate=Estimate(peak_bytes=foretold, seconds=1.0, tokens=1)))
    events = list(rehearse.rehearse(plan, run, open_backend(plan), steps, dev))
    assert [event.type for event in events] == ["warned"] * warned
    for event in events:
        assert isinstance(event, Warned)
        assert event.code == "memory_estimate"
        assert f"{share - 1:+.0%}" in event.message
        assert "9.31 GiB" in event.message


def test_what_fills_up_later_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearse, "peak_bytes", lambda: 10**10)
    full = Memory(weights=10**10, kept=4 * 10**9)
    phases = {"train": full, "generate": Memory(weights=10**11)}
    foretold = Estimate(peak_bytes=14 * 10**9, seconds=1.0, tokens=1, memory=phases)
    plan, run, steps, dev = start(tmp_path / "run", fake(estimate=foretold))
    assert list(rehearse.rehearse(plan, run, open_backend(plan), steps, dev)) == []


def test_where_loading_is_the_fullest_nothing_is_kept_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearse, "peak_bytes", lambda: 10**10)
    phases = {"load": Memory(mapped=10**10), "train": Memory(weights=5 * 10**9, kept=4 * 10**9)}
    foretold = Estimate(peak_bytes=10**10, seconds=1.0, tokens=1, memory=phases)
    plan, run, steps, dev = start(tmp_path / "run", fake(estimate=foretold))
    assert list(rehearse.rehearse(plan, run, open_backend(plan), steps, dev)) == []
