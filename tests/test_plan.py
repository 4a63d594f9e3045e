"""The plan: what it says about each step, and what its digest covers."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor.plan import Adam, Estimate, Plan, steps_of

from .plans import plan


def test_learning_rate_by_hand() -> None:
    linear = plan(learning_rate=1.0, warmup_steps=2, steps=6)
    assert [linear.lr(step) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    constant = plan(learning_rate=1.0, warmup_steps=2, steps=6, schedule="constant")
    assert [constant.lr(step) for step in range(6)] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert plan(learning_rate=1.0, warmup_steps=0, steps=1).lr(0) == 1.0


@given(steps=st.integers(1, 200), warmup=st.integers(0, 200), schedule=st.sampled_from(["linear", "constant"]))
def test_learning_rate_rises_to_its_peak_then_never_rises_and_is_never_zero(
    steps: int, warmup: int, schedule: str
) -> None:
    decided = plan(steps=steps, warmup_steps=warmup, schedule=schedule, learning_rate=0.3)
    rates = [decided.lr(step) for step in range(steps)]
    assert all(0 < rate <= 0.3 * (1 + 1e-12) for rate in rates)
    assert all(left < right for left, right in pairwise(rates[:warmup]))
    assert all(left >= right for left, right in pairwise(rates[warmup:]))


def test_the_optimizer_gets_its_settings_for_every_step() -> None:
    decided = plan(weight_decay=0.1, clip=0.5)
    assert decided.adam(3) == Adam(learning_rate=decided.lr(3), weight_decay=0.1, clip=0.5)


def test_evaluation_and_saving_come_at_their_steps_and_after_the_last() -> None:
    decided = plan(steps=10, save_every=4, evaluate_every=3)
    assert [step + 1 for step in range(10) if decided.saves(step)] == [4, 8, 10]
    assert [step + 1 for step in range(10) if decided.evaluates(step)] == [3, 6, 9, 10]


def test_the_digest_covers_what_decides_the_result() -> None:
    first = plan()
    assert first.digest == plan().digest
    assert plan(estimate=Estimate(peak_bytes=9, seconds=9.0, tokens=9)).digest == first.digest
    assert plan(reasons={"seed": "asked for"}).digest == first.digest
    assert plan(save_every=5).digest == first.digest, "it follows the measured speed"
    for change in ({"seed": 18}, {"num_threads": 2}, {"data": "f"}, {"environment": {"OMP_NUM_THREADS": "1"}}):
        assert plan(**change).digest != first.digest


def test_it_comes_back_from_disk() -> None:
    decided = plan(reasons={"seed": "asked for"})
    text = json.dumps(decided.model_dump(mode="json", by_alias=True))
    assert json.loads(text)["schema"] == 1
    assert Plan.model_validate(json.loads(text)) == decided
    assert Plan.model_validate_json(text).digest == decided.digest


def test_nothing_is_left_open() -> None:
    with pytest.raises(ValidationError):
        plan(seed=None)
    with pytest.raises(ValidationError):
        plan(no_such_value=1)
    with pytest.raises(ValidationError):
        plan().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("epochs", "examples", "batch", "steps"),
    [(1, 100, 10, 10), (1, 101, 10, 11), (0.001, 10, 10, 1), (2.5, 100, 8, 32)],
)
def test_steps_of_epochs(epochs: float, examples: int, batch: int, steps: int) -> None:
    assert steps_of(epochs, examples, batch) == steps
