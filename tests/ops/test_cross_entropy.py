"""Tiled log-probabilities against the plain twin: values and gradients."""

from __future__ import annotations

import pytest
import torch

from sartor.ops import cross_entropy
from sartor.ops.cross_entropy import plain_logprobs, supervised_logprobs


def inputs(dtype: torch.dtype, rows: int = 37) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(rows, 16, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(101, 16, generator=generator).to(dtype)
    return hidden, head, torch.randint(101, (rows,), generator=generator)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("tile", [8, 37, 512])
def test_values_and_gradients_equal_the_plain_twin(
    dtype: torch.dtype, tolerance: float, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "TILE", tile)
    upstream = torch.linspace(-1, 2, 37)
    results = []
    for function in (supervised_logprobs, plain_logprobs):
        hidden, head, targets = inputs(dtype)
        logprobs = function(hidden, head, targets)
        (logprobs * upstream).sum().backward()
        assert hidden.grad is not None
        results.append((logprobs.detach(), hidden.grad.float()))
    (ours, our_gradient), (plain, plain_gradient) = results
    assert float((ours - plain).abs().max()) < tolerance * 10
    assert float((our_gradient - plain_gradient).norm() / plain_gradient.norm()) < tolerance * 10


def test_gradient_check_in_fp64() -> None:
    hidden, head, targets = inputs(torch.float32, rows=3)
    step = 1e-3
    hidden = hidden.detach().requires_grad_()
    supervised_logprobs(hidden, head, targets).sum().backward()
    assert hidden.grad is not None
    for place in ((0, 0), (1, 7), (2, 15)):
        ends = []
        for sign in (1, -1):
            moved = hidden.detach().double().clone()
            moved[place] += sign * step
            ends.append(torch.log_softmax(moved @ head.double().t(), -1).gather(1, targets[:, None]).sum())
        assert float(hidden.grad[place]) == pytest.approx(float((ends[0] - ends[1]) / (2 * step)), abs=1e-4)


def test_no_positions_give_no_logprobs() -> None:
    _, head, _ = inputs(torch.float32)
    assert supervised_logprobs(torch.zeros(0, 16), head, torch.zeros(0, dtype=torch.int64)).shape == (0,)
