"""Causal attention over a flat batch of segments: no padding, and no segment sees another.

Registered through transformers' `AttentionInterface`, so the model's own code is used as it is. The segments travel as
`cu_seq_lens_q`, transformers' official argument. What is not implemented here is refused, never approximated.

Shapes: H query heads · G key/value heads · T tokens · D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from sartor.errors import Unsupported

NAME = "sartor_flat"
LONGEST_EXPLICIT = 512  # tokens; beyond it the square of weights outgrows the cache, and torch's blocks are better


def flat_attention(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment, causally. Returns the output (1, T, H, D) and no attention weights.

    Raises:
        Unsupported: padding or another mask, a batch of several rows, dropout, a softcap, sinks, or a sliding window
            shorter than the longest segment.
    """
    if cu_seq_lens_q is None:
        raise Unsupported("flat attention without segments", hint="pass cu_seq_lens_q")
    offsets = cu_seq_lens_q.tolist()
    spans = list(pairwise(offsets))
    longest = max(end - start for start, end in spans)
    refusals = {
        "an attention mask": attention_mask is not None,
        f"{query_1HTD.shape[0]} rows": query_1HTD.shape[0] != 1,
        "dropout": dropout != 0.0,
        "a softcap": softcap is not None,
        "attention sinks": s_aux is not None,
        f"a sliding window of {sliding_window}": sliding_window is not None and sliding_window < longest,
    }
    for what, met in refusals.items():
        if met:
            raise Unsupported(f"flat attention does not implement {what}", hint="train with one segment at a time")
    if longest > LONGEST_EXPLICIT:
        return plain_segments(query_1HTD, key_1GTD, value_1GTD, spans, scaling), None
    scale = query_1HTD.shape[-1] ** -0.5 if scaling is None else scaling
    output_THD = _Segments.apply(query_1HTD[0], key_1GTD[0], value_1GTD[0], spans, scale)  # type: ignore[no-untyped-call]
    return output_THD[None], None


def plain_segments(
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    spans: Sequence[tuple[int, int]],
    scaling: float | None,
) -> torch.Tensor:
    """One causal call of torch's own attention per segment: the plain twin, and the path of long segments."""
    query_1HTD, key_1GTD = query_1HTD.to(value_1GTD.dtype), key_1GTD.to(value_1GTD.dtype)
    outputs = [
        F.scaled_dot_product_attention(
            query_1HTD[:, :, start:end],
            key_1GTD[:, :, start:end],
            value_1GTD[:, :, start:end],
            is_causal=True,
            scale=scaling,
            enable_gqa=query_1HTD.shape[1] != key_1GTD.shape[1],
        )
        for start, end in spans
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


class _Segments(torch.autograd.Function):
    """Attention as explicit fp32 products, a segment at a time, the probabilities computed again in the backward.

    torch's own backward takes five times as long at these lengths, and rounds to bf16 (docs/why/numerics.md). Query
    heads that share a key head are stacked as rows, so keys and values are never repeated: (G, H/G · L, D).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_HTD: torch.Tensor,
        key_GTD: torch.Tensor,
        value_GTD: torch.Tensor,
        spans: Sequence[tuple[int, int]],
        scale: float,
    ) -> torch.Tensor:
        num_heads, num_tokens, size = query_HTD.shape
        output_THD = value_GTD.new_empty(num_tokens, num_heads, size)
        for start, end in spans:
            query, key, value = (_rows(part, start, end, key_GTD.shape[0]) for part in (query_HTD, key_GTD, value_GTD))
            mixed = torch.bmm(_probabilities(query, key, scale), value)
            output_THD[start:end] = mixed.view(num_heads, end - start, size).transpose(0, 1)
        ctx.save_for_backward(query_HTD, key_GTD, value_GTD)
        ctx.spans, ctx.scale = spans, scale
        return output_THD

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = ctx.saved_tensors
        groups = inputs[1].shape[0]
        gradients = [torch.empty(part.shape, dtype=part.dtype) for part in inputs]
        upstream_HTD = upstream[0].transpose(0, 1)
        for start, end in ctx.spans:
            query, key, value = (_rows(part, start, end, groups) for part in inputs)
            output_slope = _rows(upstream_HTD, start, end, groups)
            weights = _probabilities(query, key, ctx.scale)
            slope = torch.bmm(output_slope, value.transpose(1, 2))
            slope.sub_((slope * weights).sum(dim=-1, keepdim=True)).mul_(weights).mul_(ctx.scale)
            found = (
                torch.bmm(slope, key),
                torch.bmm(slope.transpose(1, 2), query),
                torch.bmm(weights.transpose(1, 2), output_slope),
            )
            for gradient, part in zip(gradients, found, strict=True):
                gradient[:, start:end] = part.view(gradient.shape[0], end - start, -1)
        return (*gradients, None, None)


def _rows(part_HTD: torch.Tensor, start: int, end: int, groups: int) -> torch.Tensor:
    """One segment in fp32, the heads of a group stacked: (G, H/G · L, D)."""
    return part_HTD[:, start:end].float().reshape(groups, -1, part_HTD.shape[-1])


def _probabilities(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention weights (G, H/G · L, L) of one segment."""
    length = key.shape[1]
    scores = torch.baddbmm(_causal(length, query.shape[1] // length), query, key.transpose(1, 2), alpha=scale)
    return torch.softmax(scores, dim=-1)


@lru_cache(maxsize=256)
def _causal(length: int, copies: int) -> torch.Tensor:
    """0 where a position may look, -inf where not: (1, copies · L, L)."""
    return torch.full((length, length), float("-inf")).triu_(1).repeat(copies, 1)[None]


def register() -> None:
    """Make `attn_implementation="sartor_flat"` known to transformers. Safe to call twice."""
    AttentionInterface.register(NAME, flat_attention)


@torch.no_grad()
def find_leak(forward: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor], vocab_size: int) -> str:
    """Perturb one of three segments of a packed batch: the others must not move by a bit. What went wrong, or empty.

    `forward(tokens_T, positions_T, offsets_S1)` gives the hidden states (T, D) that training would use. The model
    decides, not our reading of its code: a mask, a convolution or a state that crosses segments shows here.
    """
    lengths = (7, 5, 9)
    tokens_T = torch.randint(vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    offsets_S1 = torch.tensor([0, 7, 12, 21], dtype=torch.int32)
    changed_T = tokens_T.clone()
    changed_T[7:12] = (changed_T[7:12] + 1) % vocab_size
    before, after = (forward(tokens, positions_T, offsets_S1) for tokens in (tokens_T, changed_T))
    if not torch.isfinite(before).all():
        return "the packed forward is not finite"
    moved = (before != after).any(dim=-1)
    if moved[:7].any() or moved[12:].any():
        return "a change in one segment of a packed batch moved another segment"
    if not moved[7:12].all():
        return "a changed segment of a packed batch did not move"
    return ""
