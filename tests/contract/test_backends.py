"""The contract of a backend. What it computes on is given by `PLANS`: another backend joins by its line there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sartor import names
from sartor.backends import Backend, open_backend
from sartor.data.pack import Steps
from sartor.errors import NumericsError
from sartor.plan import Choice, Plan
from sartor.types import Batch, Sums

from ..padded_bases import WORDS, write_t5  # noqa: TID252 - the tests are no package that could be imported by name
from ..plans import plan, segments  # noqa: TID252

ROWS = segments(12)


def real(backend: str, base: Path, **about: str) -> Plan:
    """A plan for LoRA on a tiny base."""
    model = plan().model.model_copy(update={"path": str(base), **about})
    return plan(backend=backend, model=model, adapter=Choice(name="lora", settings={"r": 4}), micro_tokens=64)


#: Backend -> a plan that opens it, given a tiny decoder and an empty folder.
PLANS: dict[str, Callable[[Path, Path], Plan]] = {
    "fake": lambda decoder, folder: plan(),
    "torch": lambda decoder, folder: real("torch", decoder),
    "padded": lambda decoder, folder: real("padded", write_t5(folder), form="seq2seq"),
}
ELSEWHERE = {"fsdp"}  # needs ranks: tests/backends/test_fsdp.py

sft = names.resolve("objectives", "sft")


@pytest.fixture(scope="module", params=sorted(PLANS))
def decided(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return PLANS[request.param](tiny_folder, tmp_path_factory.mktemp("base"))


def test_every_backend_is_tried() -> None:
    assert set(PLANS) == set(names.known("backends")) - ELSEWHERE


def data(*, micro_tokens: int = 16) -> Steps:
    rows = [[replace(item, tokens=known(item.tokens), targets=known(item.targets)) for item in row] for row in ROWS]
    return Steps(rows, batch_size=4, micro_tokens=micro_tokens, seed=3)


def known(ids: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens that even the smallest base has."""
    return tuple(item % len(set(WORDS)) for item in ids)


def forward(backend: Backend, batches: list[Batch], *, grad: bool = True) -> list[Sums]:
    weight = sum(sft.weight(batch) for batch in batches)
    return [backend.forward_backward(batch, sft, sft.Config(), weight, grad=grad) for batch in batches]


def advance(backend: Backend, steps: Steps, decided: Plan, count: int, *, first: int = 0) -> list[tuple[float, float]]:
    """(loss, gradient norm) of some steps."""
    seen = []
    for step in range(first, first + count):
        sums = forward(backend, next(steps))
        seen.append((sum(part.loss for part in sums), backend.step(decided.adam(step))))
    return seen


def weights(backend: Backend, folder: Path) -> dict[str, torch.Tensor]:
    """What the backend would hand out, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.export(folder)
    return load_file(folder / "adapter_model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_learns_and_the_same_plan_gives_the_same_numbers(decided: Plan) -> None:
    first = advance(open_backend(decided), data(), decided, 9)  # three epochs of three steps
    assert first == advance(open_backend(decided), data(), decided, 9)
    assert sum(loss for loss, _ in first[6:]) < sum(loss for loss, _ in first[:3])
    assert all(norm > 0 for _, norm in first)


def test_save_load_step_equals_step(decided: Plan, tmp_path: Path) -> None:
    one, steps = open_backend(decided), data()
    advance(one, steps, decided, 5)
    one.save(tmp_path)
    steps.save(tmp_path)
    onward = advance(one, steps, decided, 5, first=5)

    other, again = open_backend(decided), data()
    advance(other, again, decided, 2)
    other.load(tmp_path)
    again.load(tmp_path)
    assert advance(other, again, decided, 5, first=5) == onward
    assert same(weights(one, tmp_path / "one"), weights(other, tmp_path / "other"))


def test_micro_batches_do_not_change_the_trajectory(decided: Plan) -> None:
    small = advance(open_backend(decided), data(micro_tokens=1), decided, 10)
    large = advance(open_backend(decided), data(micro_tokens=999), decided, 10)
    for left, right in zip(small, large, strict=True):
        assert left == pytest.approx(right, rel=1e-4)  # fp32: its sums in another order, for ten steps


def test_sums_say_what_went_in(decided: Plan) -> None:
    batch = next(data(micro_tokens=999))[0]
    (sums,) = forward(open_backend(decided), [batch])
    assert (sums.num_tokens, sums.num_supervised) == (batch.num_tokens, batch.num_supervised)
    assert sums.loss > 0


def test_without_gradients_the_loss_is_the_same_and_nothing_is_left(decided: Plan, tmp_path: Path) -> None:
    one, other = open_backend(decided), open_backend(decided)
    batches = next(data())
    losses = [part.loss for part in forward(one, batches, grad=False)]
    assert losses == [part.loss for part in forward(one, batches, grad=False)]
    assert losses == [part.loss for part in forward(one, batches)]
    forward(other, batches)
    assert one.step(decided.adam(0)) == other.step(decided.adam(0))
    assert same(weights(one, tmp_path / "one"), weights(other, tmp_path / "other"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_with_its_rows_and_the_weights_stay(
    decided: Plan, tmp_path: Path, value: float
) -> None:
    backend, steps = open_backend(decided), data()
    advance(backend, steps, decided, 2)
    before = weights(backend, tmp_path / "before")
    batches = next(steps)
    spoilt = batches[-1].weights_T.copy()
    spoilt[spoilt != 0] = value
    forward(backend, [*batches[:-1], replace(batches[-1], weights_T=spoilt)])
    with pytest.raises(NumericsError, match="not finite") as caught:
        backend.step(decided.adam(2))
    for row in batches[-1].rows:
        assert row in caught.value.message
    assert caught.value.hint
    assert same(before, weights(backend, tmp_path / "after"))
    assert advance(backend, steps, decided, 1)[0][1] > 0, "what was refused is forgotten"


def test_one_process_sums_its_own(decided: Plan) -> None:
    assert open_backend(decided).sum(2.5) == 2.5
    assert open_backend(decided).warnings == ()
