"""Causal attention over a flat batch of segments: no padding, and no segment sees another.

Registered through transformers' `AttentionInterface`, so the model's own code is used as it is. The segments travel as
`cu_seq_lens_q`, transformers' official argument. What is not implemented here is refused, never approximated. The
kernel of `ops/forest_attention.py` computes it; where there is none, torch's own attention, a segment at a time.

Shapes: H query heads · G key/value heads · T tokens · D head size · P tokens of a prefix · U those and the T tokens ·
L tokens of a segment · K its keys · C columns of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from sartor.errors import Unsupported
from sartor.ops import forest_attention
from sartor.ops.forest_attention import Attention, Forest, Heads, Plain

NAME = "sartor_flat"
FLAT = "flat attention", "train with one segment at a time"  # what it is called, and the way out of a refusal
#: Of each layer, keys (turned already) and values that stand before every segment: (P, G · D) each.
Prefix = Sequence[tuple[torch.Tensor, torch.Tensor]]
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def flat_attention(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    prefix: Prefix | None = None,
    **rest: Any,
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
    refuse_beyond(*FLAT, query_1HTD, attention_mask, longest=longest, **rest)
    scale = query_1HTD.shape[-1] ** -0.5 if scaling is None else scaling
    parts = query_1HTD[0].to(value_1GTD.dtype), key_1GTD[0].to(value_1GTD.dtype), value_1GTD[0]
    return _attend(*parts, earlier, offsets, scale)[None], None


def refuse_beyond(
    attention: str,
    hint: str,
    query_1HTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    /,
    *,
    longest: int = 0,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    also: Mapping[str, bool] | None = None,
    **_: Any,
) -> None:
    """Refuse what a layer asks beyond causal attention in one row; `longest`: tokens that a window must reach over.

    Raises:
        Unsupported: naming the first of them, or of what the caller refuses `also`.
    """
    refusals = {
        "an attention mask": attention_mask is not None,
        f"{query_1HTD.shape[0]} rows": query_1HTD.shape[0] != 1,
        "dropout": dropout != 0.0,
        "a softcap": softcap is not None,
        "attention sinks": s_aux is not None,
        f"a sliding window of {sliding_window}": sliding_window is not None and sliding_window < longest,
        **(also or {}),
    }
    for what, met in refusals.items():
        if met:
            raise Unsupported(f"{attention} does not implement {what}", hint=hint)


def unequal(key_1GTD: torch.Tensor, value_1GTD: torch.Tensor) -> dict[str, bool]:
    """Of what `refuse_beyond` takes as `also`: values of another size than keys, as in DeepSeek and MiniCPM3."""
    sizes = key_1GTD.shape[-1], value_1GTD.shape[-1]
    return {f"keys of {sizes[0]} beside values of {sizes[1]}": sizes[0] != sizes[1]}


def prefix_of(module: nn.Module, prefix: Prefix, like_1GTD: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The keys and values (G, P, D) of an attention module's own layer."""
    layer = int(vars(module)["layer_idx"])
    return tuple(part_PG.view(len(part_PG), -1, like_1GTD.shape[-1]).transpose(0, 1) for part_PG in prefix[layer])


def _attend(
    query_HTD: torch.Tensor,
    key_GTD: torch.Tensor,
    value_GTD: torch.Tensor,
    earlier: tuple[torch.Tensor, ...],
    offsets: list[int],
    scale: float,
) -> torch.Tensor:
    """(T, H, D). A prefix is a node of its own, whose queries nobody asks for, and the segments are its children."""
    kernel = forest_attention.attention(value_GTD.dtype, value_GTD.shape[-1])
    unequal_sizes = key_GTD.shape[-1] != value_GTD.shape[-1]  # the kernel takes one for all
    if unequal_sizes or isinstance(kernel, Plain) or value_GTD.device.type != "cpu":
        return by_segment(query_HTD, key_GTD, value_GTD, earlier, offsets, scale)
    parents = [-1] * (len(offsets) - 1)
    if earlier:
        num_earlier = earlier[0].shape[1]
        query_HTD = F.pad(query_HTD, (0, 0, num_earlier, 0))
        key_GTD, value_GTD = _after(earlier, key_GTD, value_GTD)
        offsets, parents = [0, *(num_earlier + offset for offset in offsets)], [-1, *(0 for _ in parents)]
    else:
        num_earlier = 0
    forest = Forest(torch.tensor(offsets, dtype=torch.int32), torch.tensor(parents, dtype=torch.int32))
    heads = Heads(query_HTD.shape[0], key_GTD.shape[0], key_GTD.shape[-1], scale)
    output_UHD: torch.Tensor = _OnForest.apply(query_HTD, key_GTD, value_GTD, kernel, heads, forest)  # type: ignore[no-untyped-call]
    return output_UHD[num_earlier:]


def by_segment(
    query_HTD: torch.Tensor,
    key_GTD: torch.Tensor,
    value_GTD: torch.Tensor,
    earlier: tuple[torch.Tensor, ...],
    offsets: list[int],
    scale: float,
) -> torch.Tensor:
    """torch's own attention of each segment, (T, H, D): the plain twin, in any type and on any device."""
    lengths = [end - start for start, end in pairwise(offsets)]
    found = []
    for query_HLD, *own in zip(
        *(part.split_with_sizes(lengths, dim=1) for part in (query_HTD, key_GTD, value_GTD)), strict=True
    ):
        key_GKD, value_GKD = _after(earlier, *own) if earlier else own
        length, num_keys = query_HLD.shape[1], key_GKD.shape[1]
        sees_LK = None  # torch takes the first query for the one that sees the first key only
        if num_keys != length:
            sees_LK = torch.ones(length, num_keys, dtype=torch.bool, device=query_HLD.device).tril(num_keys - length)
        output_1HLD = F.scaled_dot_product_attention(
            query_HLD[None],
            key_GKD[None],
            value_GKD[None],
            attn_mask=sees_LK,
            is_causal=sees_LK is None,
            scale=scale,
            enable_gqa=query_HLD.shape[0] != key_GKD.shape[0],
        )
        found.append(output_1HLD[0].transpose(0, 1))
    return torch.cat(found)


def _after(earlier: tuple[torch.Tensor, ...], *own: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keys and values (G, P + L, D) with those of a prefix before them."""
    return tuple(torch.cat([before.to(part.dtype), part], dim=1) for before, part in zip(earlier, own, strict=True))


class _OnForest(torch.autograd.Function):
    """Query, key and value of all tokens go into the kernel's rows, and their gradients come out of such rows."""

    @staticmethod
    def forward(
        ctx: Any,
        query_HUD: torch.Tensor,
        key_GUD: torch.Tensor,
        value_GUD: torch.Tensor,
        kernel: Attention,
        heads: Heads,
        forest: Forest,
    ) -> torch.Tensor:
        qkv_UC = torch.cat([part.transpose(0, 1).flatten(1) for part in (query_HUD, key_GUD, value_GUD)], dim=1)
        out_UC = qkv_UC.new_empty(len(qkv_UC), heads.query_width)
        logsumexp_HU = torch.empty(heads.num_query, len(qkv_UC))
        kernel.forward(heads, forest, qkv_UC, out_UC, logsumexp_HU)
        ctx.save_for_backward(qkv_UC, out_UC, logsumexp_HU)
        ctx.asked = kernel, heads, forest
        return out_UC.view(len(out_UC), -1, heads.size)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv_UC, out_UC, logsumexp_HU = ctx.saved_tensors
        kernel, heads, forest = ctx.asked
        upstream_UC = torch.empty_like(out_UC).copy_(upstream[0].flatten(1))
        gradient_UC = torch.empty_like(qkv_UC)
        kernel.backward(heads, forest, qkv_UC, out_UC, logsumexp_HU, upstream_UC, gradient_UC)
        return (
            *(part.unflatten(1, (-1, heads.size)).transpose(0, 1) for part in heads.split(gradient_UC)),
            None,
            None,
            None,
        )


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
def find_leak(forward: Forward, vocab_size: int) -> str:
    """Perturb one of three segments of a packed batch: the others must not move by a bit. What went wrong, or empty.

    `forward(tokens_T, positions_T, offsets_S1)` gives the hidden states (T, D) that training would use. The model
    decides, not our reading of its code: a mask, a convolution or a state that crosses segments shows here.
    """
    before_TD, moved = _moved(forward, vocab_size, slice(7, 12))
    if not torch.isfinite(before_TD).all():
        return "the packed forward is not finite"
    if moved[:7].any() or moved[12:].any():
        return "a change in one segment of a packed batch moved another segment"
    if not moved[7:12].all():
        return "a changed segment of a packed batch did not move"
    return ""


@torch.no_grad()
def find_foresight(forward: Forward, vocab_size: int) -> str:
    """Perturb the last token of a segment: those before it must not move by a bit. What went wrong, or empty.

    `forward` as in `find_leak`. A model that does not ask for an attention by its name may have been given no mask.
    """
    _, moved = _moved(forward, vocab_size, slice(11, 12))
    return "a token sees those that come after it" if moved[:11].any() else ""


def _moved(forward: Forward, vocab_size: int, changed: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (T, D) of segments of 7, 5 and 9 tokens, and which of them (T,) move with some of the tokens."""
    lengths = (7, 5, 9)
    tokens_T = torch.randint(vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    offsets_S1 = torch.tensor([0, 7, 12, 21], dtype=torch.int32)
    changed_T = tokens_T.clone()
    changed_T[changed] = (changed_T[changed] + 1) % vocab_size
    before_TD, after_TD = (forward(tokens, positions_T, offsets_S1) for tokens in (tokens_T, changed_T))
    return before_TD, (before_TD != after_TD).any(dim=-1)
