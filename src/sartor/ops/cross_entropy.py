"""Log-probabilities of the supervised tokens, in tiles, with the gradient of the hidden states taken in the forward.

The full logits (positions × vocabulary) are never held: a tile of them is made, used for both directions, and dropped.
So the head costs two matrix products a position instead of three, and no product runs in fp32 for a bf16 model.

Shapes: N supervised positions · D hidden size · V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

TILE = 512  # rows: 512 × 49,152 bf16 logits are 48 MiB; smaller tiles lose product speed (docs/why/numerics.md)


def supervised_logprobs(hidden_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """log p(target) of each position, fp32, differentiable in `hidden_ND` only (the head is frozen)."""
    logprobs: torch.Tensor = _TiledLogprobs.apply(hidden_ND, head_VD, targets_N)  # type: ignore[no-untyped-call]
    return logprobs


def plain_logprobs(hidden_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """The plain twin: full logits, log-softmax in fp32. Differentiable in everything."""
    logits_NV = F.linear(hidden_ND, head_VD).float()
    return torch.log_softmax(logits_NV, dim=-1).gather(1, targets_N[:, None])[:, 0]


class _TiledLogprobs(torch.autograd.Function):
    """d log p(t) / d h = W[t] - softmax(h Wᵀ) W, kept per position and scaled by the upstream gradient later."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        wanted = hidden_ND.requires_grad
        slope_ND = torch.empty_like(hidden_ND) if wanted else None
        logprobs_N = torch.empty(hidden_ND.shape[0], dtype=torch.float32)
        for start in range(0, hidden_ND.shape[0], TILE):
            rows = slice(start, start + TILE)
            logits, target = hidden_ND[rows] @ head_VD.t(), targets_N[rows, None]
            top = logits.amax(dim=-1, keepdim=True)
            chosen = logits.gather(1, target).float() - top.float()
            logits.sub_(top).exp_()
            total = logits.sum(dim=-1, keepdim=True, dtype=torch.float32)
            logprobs_N[rows] = (chosen - total.log())[:, 0]
            if slope_ND is not None:
                logits.mul_((-1.0 / total).to(logits.dtype))
                logits.scatter_add_(1, target, torch.ones_like(target, dtype=logits.dtype))
                torch.mm(logits, head_VD, out=slope_ND[rows])
        if slope_ND is not None:
            ctx.save_for_backward(slope_ND)
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slope_ND,) = ctx.saved_tensors
        return slope_ND * upstream[0][:, None].to(slope_ND.dtype), None, None
