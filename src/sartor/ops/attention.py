"""Causal attention over a flat batch of segments: no padding, and no segment sees another.

Registered through transformers' `AttentionInterface`, so the model's own code is used as it is. The segments travel as
`cu_seq_lens_q`, transformers' official argument. What is not implemented here is refused, never approximated.

Shapes: H query heads · G key/value heads · T tokens · D head size · P tokens of a prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from sartor.errors import Unsupported

NAME = "sartor_flat"
#: Of each layer, keys (turned already) and values that stand before every segment: (P, G · D) each.
Prefix = Sequence[tuple[torch.Tensor, torch.Tensor]]
LONGEST_EXPLICIT = 160  # tokens; measured: 1.6 times torch's speed at 110, the same at 200, half of it at 400


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
    prefix: Prefix | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment, causally. Returns the output (1, T, H, D) and no attention weights.

    The keys and values of a `prefix` stand before those of each segment, and are seen by all of it.

    Raises:
        Unsupported: padding or another mask, a batch of several rows, dropout, a softcap, sinks, or a sliding window
            shorter than the longest segment.
    """
    if cu_seq_lens_q is None:
        raise Unsupported("flat attention without segments", hint="pass cu_seq_lens_q")
    offsets = cu_seq_lens_q.tolist()
    spans = list(pairwise(offsets))
    earlier = () if prefix is None else prefix_of(module, prefix, value_1GTD)
    longest = max(end - start for start, end in spans) + sum(part.shape[1] for part in earlier[:1])
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
    lengths = [end - start for start, end in spans]
    queries, keys, values = (part[0].split_with_sizes(lengths, dim=1) for part in (query_1HTD, key_1GTD, value_1GTD))
    if earlier:
        keys, values = (
            tuple(torch.cat([own_GPD.to(part.dtype), part], dim=1) for part in parts)
            for own_GPD, parts in zip(earlier, (keys, values), strict=True)
        )
    scale = query_1HTD.shape[-1] ** -0.5 if scaling is None else scaling
    return torch.cat([_attend(*parts, scale) for parts in zip(queries, keys, values, strict=True)])[None], None


def prefix_of(module: nn.Module, prefix: Prefix, like_1GTD: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The keys and values (G, P, D) of an attention module's own layer."""
    layer = int(vars(module)["layer_idx"])
    return tuple(part_PG.view(len(part_PG), -1, like_1GTD.shape[-1]).transpose(0, 1) for part_PG in prefix[layer])


def _attend(query_HLD: torch.Tensor, key_GLD: torch.Tensor, value_GLD: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention of one segment of L tokens, (L, H, D), in the type of the values. Queries are of the last."""
    if query_HLD.shape[1] > LONGEST_EXPLICIT:
        return plain_segment(query_HLD, key_GLD, value_GLD, scale)
    output_LHD: torch.Tensor = _ShortSegment.apply(query_HLD, key_GLD, value_GLD, scale)  # type: ignore[no-untyped-call]
    return output_LHD


def plain_segment(
    query_HLD: torch.Tensor, key_GLD: torch.Tensor, value_GLD: torch.Tensor, scale: float
) -> torch.Tensor:
    """torch's own attention: the plain twin of `_ShortSegment`, and the path of long segments."""
    length, num_keys = query_HLD.shape[1], key_GLD.shape[1]
    sees_LK = None  # torch takes the first query for the one that sees the first key only
    if num_keys != length:
        sees_LK = torch.ones(length, num_keys, dtype=torch.bool, device=query_HLD.device).tril(num_keys - length)
    output_1HLD = F.scaled_dot_product_attention(
        query_HLD[None].to(value_GLD.dtype),
        key_GLD[None].to(value_GLD.dtype),
        value_GLD[None],
        attn_mask=sees_LK,
        is_causal=sees_LK is None,
        scale=scale,
        enable_gqa=query_HLD.shape[0] != key_GLD.shape[0],
    )
    return output_1HLD[0].transpose(0, 1)


class _ShortSegment(torch.autograd.Function):
    """Attention of one segment as explicit fp32 products, its probabilities computed again in the backward.

    At these lengths it is faster than torch's own, and exact (docs/why/numerics.md). Query heads that share a key head
    are stacked as rows, so keys and values are never repeated: (G, H/G · L, D).
    """

    @staticmethod
    def forward(
        ctx: Any, query_HLD: torch.Tensor, key_GLD: torch.Tensor, value_GLD: torch.Tensor, scale: float
    ) -> torch.Tensor:
        query, key, value = (_rows(part, key_GLD.shape[0]) for part in (query_HLD, key_GLD, value_GLD))
        mixed = torch.bmm(_probabilities(query, key, scale, query_HLD.shape[1]), value)
        ctx.save_for_backward(query_HLD, key_GLD, value_GLD)
        ctx.scale = scale
        return mixed.view(query_HLD.shape).transpose(0, 1).to(value_GLD.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = ctx.saved_tensors
        groups = inputs[1].shape[0]
        query, key, value = (_rows(part, groups) for part in inputs)
        output_slope = _rows(upstream[0].transpose(0, 1), groups)
        weights = _probabilities(query, key, ctx.scale, inputs[0].shape[1])
        slope = torch.bmm(output_slope, value.transpose(1, 2))
        slope.sub_((slope * weights).sum(dim=-1, keepdim=True)).mul_(weights).mul_(ctx.scale)
        found = (
            torch.bmm(slope, key),
            torch.bmm(slope.transpose(1, 2), query),
            torch.bmm(weights.transpose(1, 2), output_slope),
        )
        gradients = (part.view(given.shape).to(given.dtype) for part, given in zip(found, inputs, strict=True))
        return (*gradients, None)


def _rows(part_HLD: torch.Tensor, groups: int) -> torch.Tensor:
    """In fp32, the heads of a group stacked: (G, H/G · L, D)."""
    return part_HLD.float().reshape(groups, -1, part_HLD.shape[-1])


def _probabilities(query: torch.Tensor, key: torch.Tensor, scale: float, length: int) -> torch.Tensor:
    """Causal attention weights (G, H/G · L, keys) of the last L positions of one segment."""
    mask = _causal(length, key.shape[1], query.shape[1] // length)
    return torch.softmax(torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scale), dim=-1)


@lru_cache(maxsize=256)
def _causal(length: int, num_keys: int, copies: int) -> torch.Tensor:
    """0 where one of the last L positions may look, -inf where not: (1, copies · L, keys)."""
    mask_LK = torch.full((length, num_keys), float("-inf")).triu_(1 + num_keys - length)
    return mask_LK.repeat(copies, 1)[None]


@dataclass(frozen=True, slots=True)
class Call:
    """What reaches the attention of one layer. `window` 0: there is none."""

    query_1HTD: torch.Tensor
    key_1GTD: torch.Tensor
    scale: float
    window: int


@contextmanager
def watched(note: Callable[[Call], None]) -> Iterator[None]:
    """Tell `note` of every call of the attention that is registered."""
    known = AttentionInterface()[NAME]

    def noting(module: nn.Module, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        scale = query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
        note(Call(query, key, scale, kwargs.get("sliding_window") or 0))
        return known(module, query, key, *args, **kwargs)

    AttentionInterface.register(NAME, noting)
    try:
        yield
    finally:
        AttentionInterface.register(NAME, known)


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
