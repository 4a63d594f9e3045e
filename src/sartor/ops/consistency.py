"""How far two passes of the same tokens are apart: both Kullback-Leibler divergences of their distributions, in tiles.

    ½ [KL(p̄₁‖p₂) + KL(p̄₂‖p₁)]    a bar: held fixed (AdaMix, arXiv 2205.12410, §3.2)

With respect to the first pass's logits that has the gradient ½ (p₁ - p₂), with respect to the second's the opposite:
one product with the head serves both, and it is taken in the forward, as the full logits are never held.

Shapes: N supervised positions · D hidden size · V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from sartor.ops.cross_entropy import TILE, Head, back, logits
from sartor.ops.pointwise import wide


def divergence(first_ND: torch.Tensor, second_ND: torch.Tensor, head_VD: Head, tile: int = TILE) -> torch.Tensor:
    """The divergence (N,) of each position, fp32, differentiable in both passes' hidden states; the head is frozen."""
    apart_N: torch.Tensor = _TiledDivergence.apply(first_ND, second_ND, head_VD, tile)  # type: ignore[no-untyped-call]
    return apart_N


def plain_divergence(first_ND: torch.Tensor, second_ND: torch.Tensor, head_VD: torch.Tensor) -> torch.Tensor:
    """The plain twin: full logits, and autograd."""
    return between(*(_logprobs(F.linear(part, head_VD)) for part in (first_ND, second_ND)))


def between(first_NV: torch.Tensor, second_NV: torch.Tensor) -> torch.Tensor:
    """The same of log-probabilities that are there anyway."""
    forth_NV = F.kl_div(second_NV, first_NV.detach(), reduction="none", log_target=True)
    back_NV = F.kl_div(first_NV, second_NV.detach(), reduction="none", log_target=True)
    return (forth_NV + back_NV).sum(dim=1) / 2


def _logprobs(logits_NV: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits_NV, dim=1, dtype=wide(logits_NV.dtype))


class _TiledDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first_ND: torch.Tensor, second_ND: torch.Tensor, head_VD: Head, tile: int) -> torch.Tensor:
        slope_ND, values = torch.empty_like(first_ND), []
        for *parts, out in zip(*(torch.split(part, tile) for part in (first_ND, second_ND, slope_ND)), strict=True):
            first_NV, second_NV = (_logprobs(logits(part, head_VD)) for part in parts)
            half_NV = (first_NV.exp() - second_NV.exp()) / 2
            values.append((half_NV * (first_NV - second_NV)).sum(dim=1))
            back(half_NV.to(first_ND.dtype), head_VD, out)
        ctx.save_for_backward(slope_ND)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        (slope_ND,) = ctx.saved_tensors
        of_first_ND = slope_ND * upstream[0][:, None].to(slope_ND.dtype)
        return of_first_ND, -of_first_ND, None, None
