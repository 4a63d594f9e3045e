"""The attention half of a decoder layer, forward and backward by hand.

    stream + after(out(attention(rotate(heads(qkv(norm(stream)))))))

`heads` (a norm of each query and key head) and `after` (a norm of the result) are the identity in most families. What
is cheap is computed again in the backward instead of being saved: the norm's output.

Shapes: T tokens · D width of the stream · C columns of query, key and value · H heads · N wanted rows.
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
from sartor.ops.forest_attention import Heads
from sartor.ops.joint_linear import JointLinear
from sartor.ops.stream_norm import StreamNorm

RECOMPUTED = frozenset({"raw", "qkv", "low", "out"})


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """`head_norms` are those of queries and keys; `after` is the norm of the block's result. Empty: there is none."""

    index: int
    norm: StreamNorm
    qkv: JointLinear
    out: JointLinear
    heads: Heads
    tools: Tools
    head_norms: tuple[StreamNorm, ...] = ()
    after: tuple[StreamNorm, ...] = ()
    rotates: bool = True

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which `backward` gives the gradients of their masters."""
        return (self.norm, self.qkv, *self.head_norms, self.out, *self.after)

    def __call__(self, stream_TD: Tensor, run: Pass, rows_N: Tensor | None = None) -> Tensor:
        """The new stream, of all rows or of those wanted."""
        result: Tensor = _Attend.apply(stream_TD, self, run, rows_N, *masters_of(self.parts))  # type: ignore[no-untyped-call]
        return result

    def project(self, stream_TD: Tensor, run: Pass) -> tuple[Tensor, Tensor]:
        """Query, key and value as they come; the low ranks of the adapters that made them."""
        num_rows = stream_TD.shape[0]
        x_TKR, _ = normalise(self.tools, self.norm, stream_TD, self.qkv.width)
        raw_TC = run.keep(self.tools, "raw" if self.head_norms else "qkv", self.index, num_rows, self.qkv.num_outputs)
        self.qkv.product(x_TKR, raw_TC)
        return raw_TC, self.qkv.keep_low(x_TKR, run.keep(self.tools, "low", self.index, num_rows, self.qkv.num_low))

    def attend(self, raw_TC: Tensor, run: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated query, key and value; the output rows, with room for low ranks; log-sum-exp."""
        tools, heads, num_rows = self.tools, self.heads, raw_TC.shape[0]
        qkv_TC = raw_TC
        if self.head_norms:
            qkv_TC = run.keep(tools, "qkv", self.index, num_rows, raw_TC.shape[1])
            heads.split(qkv_TC)[2].copy_(heads.split(raw_TC)[2])
            for part, norm in enumerate(self.head_norms):
                to_TC, inverse = heads.split(qkv_TC)[part], self._head_factors(part, num_rows)
                from_TC = heads.split(raw_TC)[part]
                tools.pointwise.head_norm(from_TC, to_TC, heads.size, norm.scale_D, norm.epsilon, inverse)
        self._rotate(qkv_TC, run, 1.0)
        out_TKR = run.keep(tools, "out", self.index, num_rows, self.out.width)
        logsumexp_HT = self._logsumexp(run, num_rows)
        tools.attention.forward(heads, run.forest, qkv_TC, out_TKR[:, : heads.query_width], logsumexp_HT)
        return qkv_TC, out_TKR, logsumexp_HT

    def _rotate(self, qkv_TC: Tensor, run: Pass, sign: float) -> None:
        if not self.rotates:
            return
        turned_TC = qkv_TC[:, : self.heads.query_width + self.heads.key_width]
        self.tools.pointwise.rotate(turned_TC, self.heads.size, run.cosine_TR, run.sine_TR, sign)

    def _head_factors(self, part: int, num_rows: int) -> Tensor:
        num_heads = self.heads.num_key if part else self.heads.num_query
        return self.tools.factors(f"head_inverse_{part}", num_rows, num_heads)

    def _logsumexp(self, run: Pass, num_rows: int) -> Tensor:
        shape = (num_rows, self.heads.num_query)
        if run.round is None or "qkv" in run.recompute:
            memory = self.tools.factors("logsumexp", *shape)
        else:
            memory = run.round.save("logsumexp", self.index, shape, self.tools.stream_dtype)
        return memory.view(self.heads.num_query, num_rows)

    def finish(self, stream_ND: Tensor, out_NKR: Tensor, run: Pass) -> tuple[Tensor, Tensor]:
        """The new stream; what was added to it before `after`."""
        tools = self.tools
        update_ND = tools.room("update", *stream_ND.shape)
        if self.after:
            update_ND = run.keep(tools, "update", self.index, *stream_ND.shape)
        self.out.product(out_NKR, update_ND)
        result_ND = stream_like(tools, run, "attended", self.index, stream_ND)
        return add_after(tools, stream_ND, update_ND, self.after, result_ND), update_ND

    def backward(self, saved: _Saved, passed_ND: Tensor, *, of_input: bool) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of the stream (if asked for) and of the masters, in their order."""
        tools, heads, run, stream_TD = self.tools, self.heads, saved.run, saved.stream_TD
        num_rows, rows_N = stream_TD.shape[0], saved.rows_N
        raw_TC, low_TR, qkv_TC = saved.raw_TC, saved.low_TR, saved.qkv_TC
        out_TKR, logsumexp_HT = saved.out_TKR, saved.logsumexp_HT
        if "qkv" in run.recompute:
            raw_TC, low_TR = self.project(stream_TD, run)
            qkv_TC, out_TKR, logsumexp_HT = self.attend(raw_TC, run)
            self.out.lower(out_TKR)
        up_ND, of_after = back_after(tools, passed_ND, saved.update_ND, self.after)
        d_out_TKR = tools.room("out_gradient", num_rows, self.out.width)
        of_out = self._back_out(up_ND, out_TKR, d_out_TKR, rows_N)
        d_qkv_TC = tools.room("qkv_gradient", num_rows, self.qkv.num_outputs)
        upstream, width = d_out_TKR[:, : heads.query_width], heads.query_width
        tools.attention.backward(heads, run.forest, qkv_TC, out_TKR[:, :width], logsumexp_HT, upstream, d_qkv_TC)
        self._rotate(d_qkv_TC, run, -1.0)
        of_heads = self._back_heads(d_qkv_TC, raw_TC)
        passed_TD = passed_ND if of_input else None
        if passed_TD is not None and rows_N is not None:
            passed_TD = torch.zeros_like(stream_TD).index_copy_(0, rows_N, passed_TD)
        gradient_TD, of_in = back_in(tools, self.norm, self.qkv, stream_TD, low_TR, d_qkv_TC, passed_TD)
        return gradient_TD, [*of_in, *of_heads, *of_out, *of_after]

    def _back_out(self, up_ND: Tensor, out_TKR: Tensor, d_out_TKR: Tensor, rows_N: Tensor | None) -> list[Tensor]:
        if rows_N is None:
            return self.out.back(up_ND, out_TKR, d_out_TKR)
        d_out_NKR = self.tools.room("wanted_gradient", len(rows_N), self.out.width)
        gradients = self.out.back(up_ND, out_TKR[rows_N], d_out_NKR)
        d_out_TKR.zero_().index_copy_(0, rows_N, d_out_NKR)
        return gradients

    def _back_heads(self, d_qkv_TC: Tensor, raw_TC: Tensor) -> list[Tensor]:
        gradients = []
        for part, norm in enumerate(self.head_norms):
            of_TC, from_TC = self.heads.split(d_qkv_TC)[part], self.heads.split(raw_TC)[part]
            inverse = self._head_factors(part, raw_TC.shape[0])
            size = self.heads.size
            of_heads, from_heads = of_TC.reshape(-1, size), from_TC.reshape(-1, size).to(inverse.dtype)
            inverse.copy_((from_heads.square().mean(1) + norm.epsilon).rsqrt().view(inverse.shape))
            gradients += norm.gradients(of_heads, from_heads, inverse.flatten())
            self.tools.pointwise.head_norm_backward(of_TC, from_TC, size, norm.scale_D, inverse)
        return gradients


@dataclass(slots=True)
class _Saved:
    """What a forward left for its backward. Where a policy recomputes them, the middle five are only scratch."""

    run: Pass
    rows_N: Tensor | None
    stream_TD: Tensor
    raw_TC: Tensor
    low_TR: Tensor
    qkv_TC: Tensor
    out_TKR: Tensor
    logsumexp_HT: Tensor
    update_ND: Tensor


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stream_TD: Tensor, block: AttentionBlock, run: Pass, rows_N: Tensor | None, *masters: Tensor
    ) -> Tensor:
        raw_TC, low_TR = block.project(stream_TD, run)
        qkv_TC, out_TKR, logsumexp_HT = block.attend(raw_TC, run)
        stream_ND, out_NKR = stream_TD, out_TKR
        if rows_N is not None:
            stream_ND, out_NKR = stream_TD[rows_N], out_TKR[rows_N]
        result_ND, update_ND = block.finish(stream_ND, out_NKR, run)
        if rows_N is not None:
            out_TKR[rows_N] = out_NKR  # with their low ranks
        ctx.block = block
        ctx.saved = _Saved(run, rows_N, stream_TD, raw_TC, low_TR, qkv_TC, out_TKR, logsumexp_HT, update_ND)
        return result_ND

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        of_input, saved = ctx.needs_input_grad[0], ctx.saved
        gradient_TD, masters = ctx.block.backward(saved, upstream[0].contiguous(), of_input=of_input)
        ctx.saved = None
        if saved.run.round is not None and (ctx.block.index == 0 or not of_input):
            saved.run.round.end()
        return gradient_TD, None, None, None, *masters
