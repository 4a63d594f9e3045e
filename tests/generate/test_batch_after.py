"""What comes after a module, by its definition in `adapters/changes.py`, in the model's number format."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F

from sartor.adapters import changes
from sartor.adapters.changes import Bottleneck, Change, LowRank, Rows, Scale, Shift, Weight
from sartor.generate.batch.after import ACTIVATIONS, after_of

torch.manual_seed(3)
X, Y = torch.randn(2, 5, 8), torch.randn(2, 5, 6)
DOWN, BIAS, UP, UP_BIAS = torch.randn(3, 6), torch.randn(3), torch.randn(6, 3), torch.randn(6)


def bottleneck(reads: str = "output", activation: str = "gelu") -> Bottleneck:
    down = DOWN if reads == "output" else torch.cat((DOWN, DOWN[:, :2]), dim=1)
    return Bottleneck(down, BIAS, UP, UP_BIAS, activation, 0.5, reads)  # type: ignore[arg-type]


def added(z: torch.Tensor, change: Bottleneck) -> torch.Tensor:
    low = F.gelu(F.linear(z, change.down_MK, change.down_bias_M))
    return change.scale * F.linear(low, change.up_NM, change.up_bias_N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (Scale(output_N=UP_BIAS), Y * UP_BIAS),
        (Shift(UP_BIAS), Y + UP_BIAS),
        (LowRank(torch.eye(3, 8), UP), Y + X[..., :3] @ UP.t()),
        (bottleneck(), Y + added(Y, bottleneck())),
        (bottleneck("input"), Y + added(X, bottleneck("input"))),
        (Rows(torch.tensor([4, 1]), torch.eye(2, 8), torch.ones(2)), None),
    ],
    ids=["scale", "shift", "low_rank", "bottleneck", "beside", "rows"],
)
def test_a_change_is_what_it_says(change: Change, wanted: torch.Tensor | None, dtype: torch.dtype) -> None:
    if wanted is None:
        wanted = Y.clone()
        wanted[..., [4, 1]] = X[..., :2] + 1
    y = Y.clone().to(dtype)
    (step,) = after_of(change, dtype)
    step(X.to(dtype), y)
    assert y.dtype == dtype
    error = (y.float() - wanted).norm() / wanted.norm()
    assert error < (1e-6 if dtype == torch.float32 else 1e-2)


def test_what_comes_before_the_module_is_nothing_after_it() -> None:
    assert after_of(Scale(input_K=torch.ones(8)), torch.float32) == []
    assert after_of(Weight(torch.ones(8)), torch.float32) == []


def test_every_activation_that_a_change_can_name_is_there() -> None:
    assert set(ACTIVATIONS) == set(
        get_args(get_type_hints(Bottleneck, {**vars(changes), "torch": torch})["activation"])
    )
