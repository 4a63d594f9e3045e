"""Layers with packed weights: made into numbers when a layer computes, into one buffer that all layers share.

In the backward they are made again, so that no copy outlives its layer. Both are plain modules of torch to everybody
else (to PEFT, to an adapter that wraps them): `weight` is made anew at each look, and what is written to it is lost.

Shapes: T tokens · K inputs · N outputs · D width of the stream · R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sartor.ops.quantised import Packed
from sartor.ops.workspace import Buffers

Tensor = torch.Tensor
#: Rows of one product: those of a vocabulary are not made all at once. Layers of a decoder mostly have fewer.
TILE = 16_384


class QuantisedLinear(nn.Linear):
    """A frozen linear layer that computes in `computes_in`, in a buffer of `room`."""

    def __init__(self, packed: Packed, bias: nn.Parameter | None, computes_in: torch.dtype, room: Buffers) -> None:
        nn.Module.__init__(self)  # not that of Linear, which would make a weight
        self.out_features, self.in_features = packed.shape
        self.packed, self.bias = packed, bias  # type: ignore[assignment] # torch declares a bias that is always there
        self.computes_in, self.room = computes_in, room

    @property
    def weight(self) -> Tensor:  # type: ignore[override] # a parameter there
        """A copy."""
        return self.packed.whole(self.computes_in)

    def tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """The weight by rows, each part until the next one is asked for."""
        for start in range(0, self.out_features, TILE):
            stop = min(start + TILE, self.out_features)
            tile = room_for(self, (stop - start, self.in_features))
            yield slice(start, stop), self.packed.make(tile, start)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return result


class QuantisedEmbedding(nn.Embedding):
    """A frozen embedding: only the rows that are looked up are made."""

    def __init__(self, packed: Packed, padding: int | None, computes_in: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = packed.shape
        self.packed, self.padding_idx, self.computes_in = packed, padding, computes_in

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A copy."""
        return self.packed.whole(self.computes_in)

    def forward(self, ids: Tensor) -> Tensor:
        return self.packed.pick(ids.reshape(-1), self.computes_in).view(*ids.shape, self.embedding_dim)


def computes_in(layer: nn.Linear) -> torch.dtype:
    """The type of a layer's products."""
    return layer.computes_in if isinstance(layer, QuantisedLinear) else layer.weight.dtype


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
        parts = [F.linear(x, tile, None if bias_N is None else bias_N[columns]) for columns, tile in layer.tiles()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        dy, of_x, of_bias_N = upstream[0], None, None
        if ctx.needs_input_grad[0]:
            for columns, tile in ctx.layer.tiles():
                part = dy[..., columns] @ tile
                of_x = part if of_x is None else of_x.add_(part)
        if ctx.needs_input_grad[1]:
            of_bias_N = dy.flatten(0, -2).sum(dim=0)
        return of_x, of_bias_N, None
