"""Layers with packed weights: made into numbers when a layer computes, into one buffer that all layers share.

In the backward they are made again, so that no copy outlives its layer. Both are plain modules of torch to everybody
else (to PEFT, to an adapter that wraps them): `weight` is made anew at each look, and what is written to it is lost.

Shapes: T tokens · K inputs · N outputs · R ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sartor.ops.pointwise import wide
from sartor.ops.quantised import Packed
from sartor.ops.workspace import Buffers

Tensor = torch.Tensor


class QuantisedLinear(nn.Linear):
    """A frozen linear layer. It computes in `computes_in` and a buffer of `room`, `tile` outputs at a time (0: all)."""

    def __init__(
        self, packed: Packed, bias: nn.Parameter | None, computes_in: torch.dtype, room: Buffers, tile: int = 0
    ) -> None:
        nn.Module.__init__(self)  # not that of Linear, which would make a weight
        self.out_features, self.in_features = packed.shape
        self.packed, self.bias = packed, bias  # type: ignore[assignment] # torch declares a bias that is always there
        self.computes_in, self.room, self._tile = computes_in, room, tile or self.out_features

    @property
    def weight(self) -> Tensor:  # type: ignore[override] # a parameter there
        """A copy."""
        return self.packed.whole(self.computes_in)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return result

    def product(self, x: Tensor) -> Tensor:
        """The layer without its gradient."""
        if self._tile >= self.out_features:
            return F.linear(x, self._made(0, self.out_features), self.bias)
        x_TK = x.reshape(-1, self.in_features)
        y_TN = x.new_empty(len(x_TK), self.out_features)
        for start in range(0, self.out_features, self._tile):
            stop = min(start + self._tile, self.out_features)
            torch.mm(x_TK, self._made(start, stop).t(), out=y_TN[:, start:stop])
        if self.bias is not None:
            y_TN += self.bias
        return y_TN.view(*x.shape[:-1], self.out_features)

    def back(self, dy: Tensor) -> Tensor:
        """The gradient of the input. Parts are added up in fp32: in bf16 each sum would be rounded."""
        if self._tile >= self.out_features:
            return dy @ self._made(0, self.out_features)
        dx = torch.zeros(*dy.shape[:-1], self.in_features, dtype=wide(dy.dtype), device=dy.device)
        for start in range(0, self.out_features, self._tile):
            stop = min(start + self._tile, self.out_features)
            dx += dy[..., start:stop] @ self._made(start, stop)
        return dx.to(dy.dtype)

    def _made(self, start: int, stop: int) -> Tensor:
        """Rows of the weight, until the shared buffer is asked for again."""
        return self.packed.make(room_for(self, (stop - start, self.in_features)), start)


class QuantisedEmbedding(nn.Embedding):
    """A frozen embedding: only the rows that are looked up are made. `scale` is what they are multiplied by."""

    scale: Tensor | None

    def __init__(self, packed: Packed, computes_in: torch.dtype, scale: Tensor | None = None) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = packed.shape
        self.packed, self.computes_in = packed, computes_in
        self.register_buffer("scale", scale, persistent=False)
        # PEFT finds the embedding by a parameter that is as long as the vocabulary: here is one, without columns.
        self._parameters["weight"] = nn.Parameter(
            torch.empty(packed.shape[0], 0, dtype=computes_in), requires_grad=False
        )

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A copy."""
        return self.packed.whole(self.computes_in)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.packed.pick(ids.reshape(-1), self.computes_in).view(*ids.shape, self.embedding_dim)
        return rows if self.scale is None else rows * self.scale.to(rows.dtype)


def computes_in(layer: nn.Linear) -> torch.dtype:
    """The type of a layer's products."""
    return layer.computes_in if isinstance(layer, QuantisedLinear) else layer.weight.dtype


def device_of(layer: nn.Linear) -> torch.device:
    """Where its weight lies."""
    return layer.packed.device if isinstance(layer, QuantisedLinear) else layer.weight.device


def room_for(layer: QuantisedLinear, shape: tuple[int, int]) -> Tensor:
    """The shared buffer, until it is asked for again."""
    return layer.room.take("weight", 0, shape, layer.computes_in, layer.packed.device)


def side_by_side(layers: Sequence[QuantisedLinear], up_NR: Tensor) -> Tensor:
    """[W, s B] of layers one below the other, until the shared buffer is asked for again."""
    num_inputs, row = layers[0].in_features, 0
    joint_NKR = room_for(layers[0], (len(up_NR), num_inputs + up_NR.shape[1]))
    for layer in layers:
        layer.packed.make(joint_NKR[row : row + layer.out_features, :num_inputs])
        row += layer.out_features
    joint_NKR[:, num_inputs:].copy_(up_NR)
    return joint_NKR


class _Product(torch.autograd.Function):
    """y = x Wᵀ + b; gradients of x and b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias_N: Tensor | None, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        of_x = ctx.layer.back(upstream[0]) if ctx.needs_input_grad[0] else None
        of_bias_N = upstream[0].flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        return of_x, of_bias_N, None
