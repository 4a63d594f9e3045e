"""What the two blocks of a decoder layer share: their tools, what one forward hands to its backward, and their ends.

A block begins with the norm of the stream and the products that read it, and ends with a norm, in some families, and
the sum with the stream.

Shapes: T tokens · D width of the stream · C outputs · R rotated pairs of a head, or low ranks · N rows that are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from sartor.ops.forest_attention import Attention, Forest
from sartor.ops.joint_linear import JointLinear
from sartor.ops.pointwise import Pointwise
from sartor.ops.stream_norm import StreamNorm
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


def normalise(tools: Tools, norm: StreamNorm, stream_TD: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What the products read, in rows of `width` columns, which have room for low ranks; 1 / rms."""
    num_rows, num_columns = stream_TD.shape
    x_TKR, inverse_T = tools.room("x", num_rows, width), tools.factors("inverse", num_rows)
    tools.pointwise.rms_norm(stream_TD, norm.scale_D, norm.epsilon, x_TKR[:, :num_columns], inverse_T)
    return x_TKR, inverse_T


def back_in(
    tools: Tools,
    norm: StreamNorm,
    linear: JointLinear,
    stream_TD: Tensor,
    low_TR: Tensor,
    upstream_TC: Tensor,
    passed_TD: Tensor | None,
) -> tuple[Tensor | None, list[Tensor]]:
    """From the gradient of linear(norm(stream)) to that of the stream, and of the masters of norm and linear.

    `passed` is what goes round the block; without it, nobody asks for the gradient of the stream.
    """
    x_TKR, inverse_T = normalise(tools, norm, stream_TD, linear.width)
    linear.put_low(x_TKR, low_TR)
    d_x_TKR = tools.room("x_gradient", *x_TKR.shape)
    needed = passed_TD is not None or bool(norm.masters)
    of_linear = linear.back(upstream_TC, x_TKR, d_x_TKR, of_input=needed)
    d_x_TD = d_x_TKR[:, : stream_TD.shape[1]]
    masters = [*norm.gradients(d_x_TD, stream_TD, inverse_T), *of_linear]
    if passed_TD is None:
        return None, masters
    gradient_TD = torch.empty_like(stream_TD)
    tools.pointwise.rms_norm_backward(d_x_TD, stream_TD, norm.scale_D, inverse_T, passed_TD, gradient_TD)
    return gradient_TD, masters


def add_after(
    tools: Tools, stream_ND: Tensor, update_ND: Tensor, after: tuple[StreamNorm, ...], result_ND: Tensor
) -> Tensor:
    """result = stream + after(update)."""
    added_ND = update_ND
    for norm in after:
        wide_ND, inverse_N = widen(tools, update_ND, "update_wide"), tools.factors("after_inverse", stream_ND.shape[0])
        added_ND = tools.room("added", *stream_ND.shape)
        tools.pointwise.rms_norm(wide_ND, norm.scale_D, norm.epsilon, added_ND, inverse_N)
    tools.pointwise.add(stream_ND, added_ND, result_ND)
    return result_ND


def back_after(
    tools: Tools, passed_ND: Tensor, update_ND: Tensor, after: tuple[StreamNorm, ...]
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the update, in the model's type, and those of the norm after it."""
    up_ND = tools.room("upstream", *passed_ND.shape)
    up_ND.copy_(passed_ND)
    gradients: list[Tensor] = []
    for norm in after:
        wide_ND, inverse_N = widen(tools, update_ND, "update_wide"), tools.factors("after_inverse", passed_ND.shape[0])
        inverse_N.copy_((wide_ND.square().mean(dim=1) + norm.epsilon).rsqrt())
        gradients += norm.gradients(up_ND, wide_ND, inverse_N)
        none_ND, through_ND = torch.zeros_like(wide_ND), torch.empty_like(wide_ND)
        tools.pointwise.rms_norm_backward(up_ND, wide_ND, norm.scale_D, inverse_N, none_ND, through_ND)
        up_ND.copy_(through_ND)
    return up_ND, gradients
