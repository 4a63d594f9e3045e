"""The feed-forward half of a decoder layer, forward and backward by hand.

    stream + after(down(activation(gate(norm(stream))) · up(norm(stream))))

Gate and up are saved; their product and the norm's output are computed again in the backward.

Shapes: T tokens · D width of the stream · F inner width · rows of gate and up as (T, 2 F).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sartor.ops.block import (
    Part,
    Pass,
    Tensor,
    Tools,
    add_after,
    back_after,
    back_in,
    masters_of,
    normalise,
    stream_like,
)
from sartor.ops.joint_linear import JointLinear
from sartor.ops.pointwise import Activation
from sartor.ops.stream_norm import StreamNorm

RECOMPUTED = frozenset({"both", "low_inner"})


@dataclass(frozen=True, slots=True)
class GatedBlock:
    """`after` is the norm of the block's result, if there is one."""

    index: int
    norm: StreamNorm
    gate_up: JointLinear
    down: JointLinear
    activation: Activation
    tools: Tools
    after: tuple[StreamNorm, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which `backward` gives the gradients of their masters."""
        return (self.norm, self.gate_up, self.down, *self.after)

    def __call__(self, stream_TD: Tensor, run: Pass) -> Tensor:
        """The new stream."""
        result: Tensor = _Feed.apply(stream_TD, self, run, *masters_of(self.parts))  # type: ignore[no-untyped-call]
        return result

    def project(self, stream_TD: Tensor, run: Pass) -> tuple[Tensor, Tensor]:
        """Gate and up of every row; the low ranks of the adapters that made them."""
        num_rows = stream_TD.shape[0]
        x_TKR, _ = normalise(self.tools, self.norm, stream_TD, self.gate_up.width)
        both_T2F = run.keep(self.tools, "both", self.index, num_rows, self.gate_up.num_outputs)
        self.gate_up.product(x_TKR, both_T2F)
        low_TR = run.keep(self.tools, "low_inner", self.index, num_rows, self.gate_up.num_low)
        return both_T2F, self.gate_up.keep_low(x_TKR, low_TR)

    def finish(self, stream_TD: Tensor, both_T2F: Tensor, run: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """The new stream; what was added to it before `after`; the low ranks of the adapter that made that."""
        tools, num_rows = self.tools, stream_TD.shape[0]
        product_TKR = tools.room("product", num_rows, self.down.width)
        tools.pointwise.gated(self.activation, both_T2F, product_TKR[:, : self.down.num_inputs])
        update_TD = tools.room("update", *stream_TD.shape)
        if self.after:
            update_TD = run.keep(tools, "fed", self.index, *stream_TD.shape)
        self.down.product(product_TKR, update_TD)
        low_TR = self.down.keep_low(
            product_TKR, run.keep(tools, "low_product", self.index, num_rows, self.down.num_low)
        )
        result_TD = stream_like(tools, run, "fed_stream", self.index, stream_TD)
        return add_after(tools, stream_TD, update_TD, self.after, result_TD), update_TD, low_TR

    def backward(self, saved: _Saved, passed_TD: Tensor, *, of_input: bool) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of the stream (if asked for) and of the masters, in their order."""
        tools, stream_TD, num_rows = self.tools, saved.stream_TD, saved.stream_TD.shape[0]
        both_T2F, low_TR = saved.both_T2F, saved.low_TR
        if "both" in saved.run.recompute:
            both_T2F, low_TR = self.project(stream_TD, saved.run)
        up_TD, of_after = back_after(tools, passed_TD, saved.update_TD, self.after)
        product_TKR = tools.room("product", num_rows, self.down.width)
        d_product_TKR = tools.room("product_gradient", num_rows, self.down.width)
        inner, low = slice(self.down.num_inputs), slice(self.down.num_inputs, None)
        self.down.back_input(up_TD, d_product_TKR)
        tools.pointwise.gated_backward(self.activation, d_product_TKR[:, inner], both_T2F, product_TKR[:, inner])
        self.down.put_low(product_TKR, saved.low_product_TR)
        of_down = self.down.back_masters(up_TD, product_TKR, d_product_TKR[:, low])
        round_TD = passed_TD if of_input else None
        gradient_TD, of_in = back_in(tools, self.norm, self.gate_up, stream_TD, low_TR, both_T2F, round_TD)
        return gradient_TD, [*of_in, *of_down, *of_after]


@dataclass(slots=True)
class _Saved:
    """What a forward left for its backward. Where a policy recomputes them, `both` and `low` are only scratch."""

    run: Pass
    stream_TD: Tensor
    both_T2F: Tensor
    low_TR: Tensor
    low_product_TR: Tensor
    update_TD: Tensor


class _Feed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream_TD: Tensor, block: GatedBlock, run: Pass, *masters: Tensor) -> Tensor:
        both_T2F, low_TR = block.project(stream_TD, run)
        result_TD, update_TD, low_product_TR = block.finish(stream_TD, both_T2F, run)
        ctx.block = block
        ctx.saved = _Saved(run, stream_TD, both_T2F, low_TR, low_product_TR, update_TD)
        return result_TD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        of_input, saved = ctx.needs_input_grad[0], ctx.saved
        gradient_TD, masters = ctx.block.backward(saved, upstream[0].contiguous(), of_input=of_input)
        ctx.saved = None
        if saved.run.round is not None and not of_input:
            saved.run.round.end()
        return gradient_TD, None, None, *masters
