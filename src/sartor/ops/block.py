"""What the two blocks of a decoder layer share: their tools, and what one forward hands to its backward.

Shapes: T tokens · D width of the residual stream · R rotated pairs of a head · N rows that are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from sartor.ops.forest_attention import Attention, Forest
from sartor.ops.pointwise import Pointwise
from sartor.ops.workspace import Round, Workspace

Tensor = torch.Tensor


class Part(Protocol):
    """What may be trained in a block: its masters, and working copies to refresh after each update."""

    @property
    def masters(self) -> Sequence[Tensor]: ...

    def refresh(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """Kernels and memory. `dtype` is that of products; the stream's is wider: fp32, or fp64 for an fp64 model."""

    pointwise: Pointwise
    attention: Attention
    workspace: Workspace
    dtype: torch.dtype
    stream_dtype: torch.dtype

    def room(self, name: str, rows: int, columns: int) -> Tensor:
        """Scratch (rows, columns) of the model's type."""
        return self.workspace.scratch(name, (rows, columns), self.dtype)

    def factors(self, name: str, *shape: int) -> Tensor:
        """Scratch of the stream's type: what norms and softmax keep of a row."""
        return self.workspace.scratch(name, shape, self.stream_dtype)


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass through the layers: how tokens see each other, their rotation, and where to save for the backward."""

    forest: Forest
    cosine_TR: Tensor
    sine_TR: Tensor
    round: Round | None = None
    recompute: frozenset[str] = field(default_factory=frozenset)

    def keep(self, tools: Tools, name: str, layer: int, rows: int, columns: int) -> Tensor:
        """Memory for a result that the backward reads: saved, or scratch where it will be computed again."""
        if self.round is None or name in self.recompute:
            return tools.room(name, rows, columns)
        return self.round.save(name, layer, (rows, columns), tools.dtype)


def stream_like(tools: Tools, run: Pass, name: str, layer: int, stream_ND: Tensor) -> Tensor:
    """Memory for the new stream: saved, as the next block's backward reads it, or the caller's to keep."""
    if run.round is None:
        return torch.empty_like(stream_ND)
    return run.round.save(name, layer, (stream_ND.shape[0], stream_ND.shape[1]), tools.stream_dtype)


def masters_of(parts: Sequence[Part]) -> list[Tensor]:
    """All that is trained in them."""
    return [master for part in parts for master in part.masters]


def widen(tools: Tools, rows_TD: Tensor, name: str) -> Tensor:
    """A copy in the stream's type."""
    wide_TD = tools.workspace.scratch(name, (rows_TD.shape[0], rows_TD.shape[1]), tools.stream_dtype)
    wide_TD.copy_(rows_TD)
    return wide_TD
