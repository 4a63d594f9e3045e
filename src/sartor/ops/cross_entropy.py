"""Log-probabilities of the supervised tokens, in tiles, with the gradient of the hidden states taken in the forward.

The full logits (positions × vocabulary) are never held: a tile of them is made, used for both directions, and
overwritten by the next. So the head costs two matrix products a position instead of three, and no product runs in fp32
for a bf16 model. `room` keeps the tile's memory from call to call: fresh pages cost a tenth of the product that fills
them (docs/why/engine.md). A frozen head may be a quantised layer, which is never made whole.

Shapes: N supervised positions · D hidden size · V vocabulary · C tokens whose rows of the head are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from sartor.ops.pointwise import pointwise, wide
from sartor.ops.product import multiply
from sartor.ops.quantised_linear import QuantisedLinear
from sartor.ops.workspace import Buffers

Head = torch.Tensor | QuantisedLinear  # (V, D)
TILE = 512  # rows: 512 × 49,152 bf16 logits are 48 MiB; those of 128 multiply at 70 % of the speed


def supervised_logprobs(
    hidden_ND: torch.Tensor, head_VD: Head, targets_N: torch.Tensor, tile: int = TILE, room: Buffers | None = None
) -> torch.Tensor:
    """log p(target) of each position, fp32, differentiable in `hidden_ND` and, where it is trained, in the head."""
    trained = isinstance(head_VD, torch.Tensor) and head_VD.requires_grad
    kind = _TiledTrainedHead if trained else _TiledLogprobs
    logprobs: torch.Tensor = kind.apply(hidden_ND, head_VD, targets_N, tile, room)  # type: ignore[no-untyped-call]
    return logprobs


def plain_logprobs(hidden_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """The plain twin: full logits, log-softmax in fp32 or more. Differentiable in everything."""
    logits_NV = F.linear(hidden_ND, head_VD)
    return torch.log_softmax(logits_NV, dim=-1, dtype=wide(logits_NV.dtype)).gather(1, targets_N[:, None])[:, 0]


def tiled_logprobs(hidden_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor, tile: int) -> torch.Tensor:
    """The same with the logits of `tile` positions at a time, which the backward makes again."""
    parts = zip(torch.split(hidden_ND, tile), torch.split(targets_N, tile), strict=True)
    return torch.cat(
        [
            checkpoint(plain_logprobs, hidden_MD, head_VD, targets_M, use_reentrant=False)
            for hidden_MD, targets_M in parts
        ]
    )


def logits(hidden_ND: torch.Tensor, head_VD: Head, room: Buffers | None = None) -> torch.Tensor:
    """(N, V), without a gradient of the head; where there is `room`, until the next ones are made there."""
    if isinstance(head_VD, QuantisedLinear):
        made_NV: torch.Tensor = head_VD(hidden_ND)
        return made_NV
    if room is None:
        return hidden_ND @ head_VD.t()
    shape = (hidden_ND.shape[0], head_VD.shape[0])
    out_NV = room.take("logits", 0, shape, hidden_ND.dtype, hidden_ND.device)
    return multiply(hidden_ND, head_VD.t(), out_NV)


def replaced_logprobs(
    hidden_ND: torch.Tensor,
    head_VD: Head,
    tokens_C: torch.Tensor,
    rows_CD: torch.Tensor,
    bias_C: torch.Tensor,
    targets_N: torch.Tensor,
    tile: int = TILE,
    room: Buffers | None = None,
) -> torch.Tensor:
    """The same where the logits of some tokens are rows_CD h + bias_C instead; the rest of the head is frozen."""
    own = (tokens_C, rows_CD, bias_C)
    logprobs: torch.Tensor = _TiledReplaced.apply(hidden_ND, head_VD, *own, targets_N, tile, room)  # type: ignore[no-untyped-call]
    return logprobs


class _TiledLogprobs(torch.autograd.Function):
    """d log p(t) / d h = W[t] - softmax(h Wᵀ) W, kept per position and scaled by the upstream gradient later."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, head_VD: Head, targets_N: torch.Tensor, tile: int, room: Buffers | None
    ) -> torch.Tensor:
        wanted = hidden_ND.requires_grad
        slope_ND = torch.empty_like(hidden_ND) if wanted else None
        logprobs_N = hidden_ND.new_empty(hidden_ND.shape[0], dtype=wide(hidden_ND.dtype))
        for rows in _tiles(hidden_ND, tile):
            tile_NV = _slope(hidden_ND[rows], head_VD, targets_N[rows], logprobs_N[rows], room)
            if slope_ND is not None:
                back(tile_NV, head_VD, slope_ND[rows])
            del tile_NV  # before the next one is made
        if slope_ND is not None:
            ctx.save_for_backward(slope_ND)
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope_ND,) = ctx.saved_tensors
        return slope_ND * upstream[0][:, None].to(slope_ND.dtype), None, None, None, None


class _TiledTrainedHead(torch.autograd.Function):
    """The head's gradient needs the upstream one, which is not known in the forward: tiles are made twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        head_VD: torch.Tensor,
        targets_N: torch.Tensor,
        tile: int,
        room: Buffers | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden_ND, head_VD, targets_N)
        ctx.tile, ctx.room = tile, room
        logprobs_N = hidden_ND.new_empty(hidden_ND.shape[0], dtype=wide(hidden_ND.dtype))
        for rows in _tiles(hidden_ND, tile):
            _slope(hidden_ND[rows], head_VD, targets_N[rows], logprobs_N[rows], room)
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, head_VD, targets_N = ctx.saved_tensors
        of_hidden_ND, of_head_VD = torch.empty_like(hidden_ND), torch.zeros_like(head_VD)
        ignored_N = hidden_ND.new_empty(hidden_ND.shape[0], dtype=wide(hidden_ND.dtype))
        for rows in _tiles(hidden_ND, ctx.tile):
            slope_NV = _slope(hidden_ND[rows], head_VD, targets_N[rows], ignored_N[rows], ctx.room)
            slope_NV.mul_(upstream[0][rows, None].to(slope_NV.dtype))
            multiply(slope_NV, head_VD, of_hidden_ND[rows])
            of_head_VD.addmm_(slope_NV.t(), hidden_ND[rows])
            del slope_NV
        return of_hidden_ND, of_head_VD, None, None, None


class _TiledReplaced(torch.autograd.Function):
    """As `_TiledLogprobs`; of d log p / d logits the few replaced columns are kept for the gradient of their rows."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        head_VD: Head,
        tokens_C: torch.Tensor,
        rows_CD: torch.Tensor,
        bias_C: torch.Tensor,
        targets_N: torch.Tensor,
        tile: int,
        room: Buffers | None,
    ) -> torch.Tensor:
        slope_ND, slope_NC = torch.empty_like(hidden_ND), hidden_ND.new_empty(len(hidden_ND), len(tokens_C))
        logprobs_N = hidden_ND.new_empty(hidden_ND.shape[0], dtype=wide(hidden_ND.dtype))
        own_CD, own_C = rows_CD.to(hidden_ND.dtype), bias_C.to(hidden_ND.dtype)
        for rows in _tiles(hidden_ND, tile):
            logits_NV = logits(hidden_ND[rows], head_VD, room)
            logits_NV[:, tokens_C] = torch.addmm(own_C, hidden_ND[rows], own_CD.t())
            _to_slope(logits_NV, targets_N[rows], logprobs_N[rows])
            slope_NC[rows] = logits_NV[:, tokens_C]
            logits_NV[:, tokens_C] = 0
            back(logits_NV, head_VD, slope_ND[rows])
            del logits_NV
        slope_ND.addmm_(slope_NC, own_CD)
        ctx.save_for_backward(hidden_ND, slope_ND, slope_NC)
        ctx.dtype = rows_CD.dtype
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, slope_ND, slope_NC = ctx.saved_tensors
        up_NC = slope_NC.to(ctx.dtype) * upstream[0][:, None].to(ctx.dtype)
        of_hidden_ND = slope_ND * upstream[0][:, None].to(slope_ND.dtype)
        return of_hidden_ND, None, None, up_NC.t() @ hidden_ND.to(ctx.dtype), up_NC.sum(dim=0), None, None, None


def _tiles(hidden_ND: torch.Tensor, tile: int) -> Iterator[slice]:
    return (slice(start, start + tile) for start in range(0, hidden_ND.shape[0], tile))


def _slope(
    hidden_ND: torch.Tensor, head_VD: Head, targets_N: torch.Tensor, logprobs_N: torch.Tensor, room: Buffers | None
) -> torch.Tensor:
    """d log p(target) / d logits of a tile (N, V); log p(target) goes out."""
    logits_NV = logits(hidden_ND, head_VD, room)
    _to_slope(logits_NV, targets_N, logprobs_N)
    return logits_NV


def back(slope_NV: torch.Tensor, head_VD: Head, out_ND: torch.Tensor) -> None:
    """The gradient of the hidden states goes out."""
    if isinstance(head_VD, QuantisedLinear):
        out_ND.copy_(head_VD.back(slope_NV))
    else:
        multiply(slope_NV, head_VD, out_ND)


def _to_slope(logits_NV: torch.Tensor, targets_N: torch.Tensor, logprobs_N: torch.Tensor) -> None:
    """Logits become d log p(target) / d logits in place; log p(target) goes out."""
    tools = pointwise(logits_NV.dtype, logits_NV.shape[1], device=logits_NV.device.type)
    tools.loss_tile(logits_NV, targets_N, logprobs_N)
