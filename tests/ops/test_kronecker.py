"""Kronecker products against torch's own, and their gradients against differences."""

from __future__ import annotations

import torch

from sartor.ops.kronecker import kron_linear, phm_weight


def drawn(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_a_product_equals_that_with_the_whole_matrix() -> None:
    x, left, right = drawn(2, 5, 12), drawn(2, 3), drawn(7, 4)
    assert torch.allclose(kron_linear(x, left, right), x @ torch.kron(left, right).t(), rtol=1e-12, atol=1e-12)


def test_a_phm_weight_is_the_sum_of_its_products() -> None:
    rule, left, right = drawn(4, 4, 4), drawn(4, 3, 2), drawn(4, 2, 5)
    whole = sum(torch.kron(rule[i], left[i] @ right[i]) for i in range(4))
    assert torch.allclose(phm_weight(rule, left, right), whole, rtol=1e-12, atol=1e-12)


def test_gradients_equal_differences_in_fp64() -> None:
    assert torch.autograd.gradcheck(kron_linear, (drawn(3, 12), drawn(2, 3), drawn(5, 4)))
    assert torch.autograd.gradcheck(
        lambda x, *parts: torch.tanh(x @ phm_weight(*parts)),
        (drawn(3, 6), drawn(2, 2, 2), drawn(2, 3, 1), drawn(2, 1, 4)),
    )
