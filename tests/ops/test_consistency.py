"""The divergence of two passes against its plain twin, and that against differences."""

from __future__ import annotations

import pytest
import torch

from sartor.ops.consistency import divergence, plain_divergence

from .conftest import relative

UPSTREAM = torch.linspace(-1, 2, 37, dtype=torch.float64)


def inputs(dtype: torch.dtype, rows: int = 37) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two passes that are not far apart, and a head."""
    generator = torch.Generator().manual_seed(4)
    first, head = torch.randn(rows, 16, generator=generator), torch.randn(101, 16, generator=generator)
    second = first + 0.3 * torch.randn(rows, 16, generator=generator)
    return first.to(dtype).requires_grad_(), second.to(dtype).requires_grad_(), head.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 5e-2)]
)
@pytest.mark.parametrize("tile", [8, 512])
def test_values_and_gradients_equal_the_plain_twin(dtype: torch.dtype, tolerance: float, tile: int) -> None:
    ours, plain = inputs(dtype), inputs(dtype)
    found, wanted = divergence(*ours, tile), plain_divergence(*plain)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert relative(found.detach(), wanted.detach()) < tolerance
    (found * UPSTREAM).sum().backward()
    (wanted * UPSTREAM).sum().backward()
    for one, other in zip(ours[:2], plain[:2], strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert relative(one.grad, other.grad) < tolerance


@pytest.mark.parametrize("moved", [0, 1])
def test_gradients_equal_differences_of_what_is_not_held_fixed(moved: int) -> None:
    """The gradient of a pass is that of its own divergence, with the other's distribution as a constant."""
    *passes, head = inputs(torch.float64, rows=5)
    other = torch.softmax(passes[1 - moved].detach() @ head.t(), dim=1)

    def one_way(hidden: torch.Tensor) -> torch.Tensor:
        return (other * (other.log() - torch.log_softmax(hidden @ head.t(), dim=1))).sum() / 2

    assert torch.autograd.gradcheck(one_way, (passes[moved],))
    (wanted,) = torch.autograd.grad(one_way(passes[moved]), passes[moved])
    (found,) = torch.autograd.grad(divergence(*passes, head).sum(), passes[moved])
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_equal_passes_are_not_apart() -> None:
    first, _, head = inputs(torch.float32)
    apart = divergence(first, first, head)
    assert apart.abs().max() == 0
    (gradient,) = torch.autograd.grad(apart.sum(), first)
    assert gradient.abs().max() == 0


def test_the_divergence_is_that_of_its_definition() -> None:
    first, second, head = (part.detach() for part in inputs(torch.float64))
    one, two = (torch.distributions.Categorical(logits=part @ head.t()) for part in (first, second))
    kl = torch.distributions.kl_divergence
    assert torch.allclose(divergence(first, second, head), (kl(one, two) + kl(two, one)) / 2, rtol=1e-12)
