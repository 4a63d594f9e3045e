"""The contract of an objective, over every file of the folder: adding an objective adds its row here."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor import names
from sartor.data.pack import pack, segment
from sartor.types import Batch, Frozen, TokenStats

NAMES = names.known("objectives")
#: Those whose sum does not depend on how a step is cut.
CUT = [name for name in NAMES if "whole_steps" not in names.resolve("objectives", name).NEEDS]
KINDS = {"chat", "text"}


@pytest.fixture(params=NAMES, scope="module")
def objective(request: pytest.FixtureRequest) -> ModuleType:
    return names.resolve("objectives", request.param)


def batches(count: int, *, micro_tokens: int = 10_000) -> list[Batch]:
    """Segments of different lengths and weights; in some nothing is trained."""
    rows = []
    for row in range(count):
        length = 3 + row % 5
        weights = [0.0, 0.0, *([0.0, 1.0, 0.5][row % 3] for _ in range(length - 2))]
        rows.append(segment(f"row {row}", [row * 10 + place for place in range(length)], weights))
    return pack(rows, micro_tokens=micro_tokens)


def stats_of(batch: Batch) -> TokenStats:
    """Log-probabilities that depend on the token alone, so that the same row has the same ones in any batch."""
    places = np.flatnonzero(batch.weights_T)
    pairs = int(np.add.reduceat(batch.weights_T != 0, batch.offsets_S1[:-1]).astype(bool).sum())
    vectors = torch.randn(2, pairs, 8, generator=torch.Generator().manual_seed(pairs))
    logprobs = -0.1 - (batch.targets_T[places] % 7) / 3
    return TokenStats(
        logprobs_N=torch.tensor(logprobs, dtype=torch.float32, requires_grad=True),
        weights_N=torch.from_numpy(batch.weights_T[places]),
        segments_N=torch.from_numpy(np.searchsorted(batch.offsets_S1[1:], places, side="right")),
        embeddings_2SD=torch.nn.functional.normalize(vectors, dim=-1).requires_grad_(),
    )


def test_members(objective: ModuleType) -> None:
    assert {"Config", "SUMMARY", "EXAMPLE", "NEEDS", "ONLINE", "weight", "loss"} <= set(vars(objective))
    assert "\n" not in objective.SUMMARY
    assert 0 < len(objective.SUMMARY) <= 100
    assert objective.EXAMPLE
    assert objective.EXAMPLE <= KINDS
    assert isinstance(objective.NEEDS, frozenset)
    assert isinstance(objective.ONLINE, bool)


def test_config_is_frozen_and_round_trips(objective: ModuleType) -> None:
    assert issubclass(objective.Config, Frozen)
    config = objective.Config()
    assert objective.Config.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        objective.Config(no_such_setting=1)


def test_the_gradient_is_finite(objective: ModuleType) -> None:
    (batch,) = batches(7)
    stats = stats_of(batch)
    loss, metrics = objective.loss(objective.Config(), stats, batch)
    assert loss.shape == ()
    assert all(isinstance(value, float) for value in metrics.values())
    loss.backward()
    given = stats.embeddings_2SD if "embeddings" in objective.NEEDS else stats.logprobs_N
    assert given is not None
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()
    assert (given.grad != 0).any()


@settings(deadline=None)
@given(count=st.integers(1, 20), micro_tokens=st.integers(1, 60))
@pytest.mark.parametrize("name", CUT)
def test_the_sum_does_not_depend_on_the_split_into_batches(name: str, count: int, micro_tokens: int) -> None:
    objective = names.resolve("objectives", name)
    whole, parts = batches(count), batches(count, micro_tokens=micro_tokens)
    totals = []
    for group in (whole, parts):
        results = [objective.loss(objective.Config(), stats_of(batch), batch) for batch in group]
        weight = sum(objective.weight(batch) for batch in group)
        keys = {key for _, metrics in results for key in metrics}
        sums = {key: sum(metrics.get(key, 0.0) for _, metrics in results) for key in sorted(keys)}
        totals.append([sum(float(loss.detach()) for loss, _ in results), weight, *sums.values()])
    assert totals[0] == pytest.approx(totals[1], rel=1e-5, abs=1e-6)


def test_what_has_no_weight_adds_nothing(objective: ModuleType) -> None:
    (batch,) = batches(6)
    silent = replace(batch, weights_T=np.zeros_like(batch.weights_T))
    assert objective.weight(silent) == 0
    loss, metrics = objective.loss(objective.Config(), stats_of(silent), silent)
    assert float(loss.detach()) == 0.0
    assert all(value == 0.0 for value in metrics.values())
    assert objective.weight(batch) > 0
    assert isinstance(objective.weight(batch), float)


def test_sft_by_hand() -> None:
    sft = names.resolve("objectives", "sft")
    (batch,) = pack([segment("a", [1, 2, 3, 4], [0, 0, 1, 0.5])], micro_tokens=9)
    stats = TokenStats(torch.tensor([-2.0, -3.0]), torch.tensor([1.0, 0.5]), torch.tensor([0, 0]))
    loss, _ = sft.loss(sft.Config(), stats, batch)
    assert float(loss) == 3.5
    assert sft.weight(batch) == 1.5


def test_contrastive_by_hand() -> None:
    contrastive = names.resolve("objectives", "contrastive")
    (batch,) = pack(
        [segment(name, [1, 2, last, 0], [0, 0, 0, 1]) for name, last in (("a", 3), ("b", 4))], micro_tokens=9
    )
    nothing = torch.zeros(0)
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]]])
    stats = TokenStats(nothing, nothing, nothing.long(), vectors)
    loss, _ = contrastive.loss(contrastive.Config(temperature=0.5), stats, batch)
    wanted = np.log1p(np.exp((0.6 - 1) / 0.5)) + np.log1p(np.exp((0.0 - 0.8) / 0.5))
    assert float(loss) == pytest.approx(wanted)
    assert contrastive.weight(batch) == 2.0
