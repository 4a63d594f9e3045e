"""Tiled log-probabilities against the plain twin: values and gradients, of a frozen head and of a trained one."""

from __future__ import annotations

import pytest
import torch

from sartor.ops.cross_entropy import plain_logprobs, replaced_logprobs, supervised_logprobs
from sartor.ops.workspace import Buffers

from .conftest import relative

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
UPSTREAM = torch.linspace(-1, 2, 37)


def inputs(dtype: torch.dtype, rows: int = 37, *, vocabulary: int = 112, trained: bool = False) -> Inputs:
    """Kernels take vocabularies that are multiples of 16; others take the twin of the tile."""
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(rows, 16, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, 16, generator=generator).to(dtype).requires_grad_(trained)
    return hidden, head, torch.randint(vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("tile", [8, 37, 512])
@pytest.mark.parametrize("vocabulary", [101, 112])
@pytest.mark.parametrize("trained", [False, True])
def test_values_and_gradients_equal_the_plain_twin(
    dtype: torch.dtype, tolerance: float, tile: int, vocabulary: int, trained: bool
) -> None:
    ours, plain = (inputs(dtype, vocabulary=vocabulary, trained=trained) for _ in range(2))
    found, wanted = supervised_logprobs(*ours, tile), plain_logprobs(*plain)
    assert found.dtype == torch.float32
    assert float((found - wanted).detach().abs().max()) < 10 * tolerance
    (found * UPSTREAM).sum().backward()
    (wanted * UPSTREAM).sum().backward()
    for one, other in zip(ours[: 1 + trained], plain[: 1 + trained], strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert relative(one.grad, other.grad) < tolerance
    assert trained or ours[1].grad is None


def test_of_a_model_in_fp64_no_digit_is_lost() -> None:
    found, wanted = (logprobs(*inputs(torch.float64)) for logprobs in (supervised_logprobs, plain_logprobs))
    assert found.dtype == wanted.dtype == torch.float64
    assert torch.allclose(found, wanted, rtol=1e-13)


@pytest.mark.parametrize("tile", [2, 512])
@pytest.mark.parametrize("trained", [False, True])
def test_gradients_equal_differences_in_fp64(trained: bool, tile: int) -> None:
    hidden, head, targets = inputs(torch.float64, rows=5, vocabulary=11, trained=trained)
    assert torch.autograd.gradcheck(
        lambda *given: supervised_logprobs(given[0], given[-1] if trained else head, targets, tile),
        (hidden, head) if trained else (hidden,),
    )


@pytest.mark.parametrize("trained", [False, True])
def test_tiles_in_one_piece_of_memory_give_the_same(trained: bool) -> None:
    room, grown = Buffers(8), set()
    for rows in (5, 37, 37):  # less than a tile, and several, the last of them short
        ours, fresh = (inputs(torch.float32, rows, trained=trained) for _ in range(2))
        kept, dropped = supervised_logprobs(*ours, 8, room), supervised_logprobs(*fresh, 8)
        assert torch.equal(kept, dropped)
        for logprobs in (kept, dropped):
            (logprobs * UPSTREAM[:rows]).sum().backward()
        assert all(torch.equal(one.grad, other.grad) for one, other in zip(ours[: 1 + trained], fresh, strict=False))  # type: ignore[arg-type]
        grown.add(room.num_bytes)
    assert grown == {8 * 112 * 4}


def test_without_a_gradient_the_values_are_the_same() -> None:
    hidden, head, targets = inputs(torch.float32)
    with torch.no_grad():
        quiet = supervised_logprobs(hidden, head, targets)
    assert torch.equal(quiet, supervised_logprobs(hidden, head, targets).detach())


@pytest.mark.parametrize("trained", [False, True])
def test_no_positions_give_no_logprobs_and_no_gradient(trained: bool) -> None:
    hidden, head, targets = inputs(torch.float32, rows=0, trained=trained)
    found = supervised_logprobs(hidden, head, targets)
    assert found.shape == (0,)
    found.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, 16)
    assert not trained or not bool(head.grad.any())  # type: ignore[union-attr]


Replaced = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def replaced(dtype: torch.dtype) -> Replaced:
    """Of some tokens, among them one that is a target: their numbers, rows and biases."""
    draw = torch.Generator().manual_seed(6)
    tokens = torch.tensor([int(inputs(dtype)[2][0]), 3, 100])
    rows, bias = torch.randn(3, 16, generator=draw), torch.randn(3, generator=draw)
    wide = torch.promote_types(dtype, torch.float32)
    return tokens, rows.to(wide).requires_grad_(), bias.to(wide).requires_grad_()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("tile", [8, 512])
def test_replaced_rows_equal_a_head_that_has_them(dtype: torch.dtype, tolerance: float, tile: int) -> None:
    (hidden, head, targets), (tokens, rows, bias) = inputs(dtype), replaced(dtype)
    found = replaced_logprobs(hidden, head, tokens, rows, bias, targets, tile)
    own, own_rows, own_bias = (item.detach().float().requires_grad_() for item in (hidden, rows, bias))
    logits = (own @ head.float().t()).index_copy(1, tokens, own @ own_rows.t() + own_bias)
    wanted = torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
    assert float((found - wanted).detach().abs().max()) < 10 * tolerance
    (found * UPSTREAM).sum().backward()
    (wanted * UPSTREAM).sum().backward()
    for one, other in ((hidden, own), (rows, own_rows), (bias, own_bias)):
        assert one.grad is not None
        assert other.grad is not None
        assert relative(one.grad, other.grad) < tolerance


def test_gradients_of_replaced_rows_equal_differences_in_fp64() -> None:
    hidden, head, targets = inputs(torch.float64, rows=5)
    tokens, rows, bias = replaced(torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: replaced_logprobs(given[0], head, tokens, *given[1:], targets, 2), (hidden, rows, bias)
    )
