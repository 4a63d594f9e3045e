"""Causal attention over a forest of token runs: a node sees its ancestors whole and itself causally.

A batch of separate segments is a forest of roots. Shared beginnings are parents of what follows them, so their keys and
values are computed once. `Native` calls the C++ kernel of a CPU, `gpu.forest.Trees` those of a GPU; `Plain` is
their twin: one softmax over an explicit mask a tree.

Shapes: T tokens · H query heads · G key/value heads · C head size · P nodes · U tokens of one tree.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Protocol

import torch

from sartor.ops import gpu, native

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Forest:
    """Nodes in depth-first order: node p holds tokens offsets[p]..offsets[p + 1]; parent -1 starts a tree.

    Both are contiguous int32 on the device of the rows.
    """

    offsets_P1: Tensor
    parents_P: Tensor

    @property
    def num_nodes(self) -> int:
        return len(self.parents_P)

    def trees(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Each tree: its tokens, what token u sees as (U, U) bool, and its tokens' positions (U,)."""
        spans, parents = list(pairwise(self.offsets_P1.tolist())), self.parents_P.tolist()
        device = self.offsets_P1.device
        roots = [node for node, parent in enumerate(parents) if parent < 0]
        for first, end in zip(roots, [*roots[1:], len(parents)], strict=True):
            start, size = spans[first][0], spans[end - 1][1] - spans[first][0]
            sees_UU = torch.zeros(size, size, dtype=torch.bool, device=device)
            positions_U = torch.zeros(size, dtype=torch.long, device=device)
            for node in range(first, end):
                own = slice(spans[node][0] - start, spans[node][1] - start)
                count, parent = own.stop - own.start, parents[node]
                if parent >= 0:
                    last = spans[parent][1] - start - 1
                    sees_UU[own] = sees_UU[last]
                    positions_U[own] = positions_U[last] + 1
                sees_UU[own, own] = torch.ones(count, count, dtype=torch.bool, device=device).tril()
                positions_U[own] += torch.arange(count, device=device)
            yield slice(start, start + size), sees_UU, positions_U


def separate(offsets_S1: Tensor) -> Forest:
    """Segments that share nothing."""
    offsets_S1 = offsets_S1.to(torch.int32)
    return Forest(offsets_S1, torch.full_like(offsets_S1[1:], -1))


@dataclass(frozen=True, slots=True)
class Heads:
    """The sizes of an attention. `window` 0: every earlier position is seen."""

    num_query: int
    num_key: int
    size: int
    scale: float
    window: int = 0

    @property
    def query_width(self) -> int:
        return self.num_query * self.size

    @property
    def key_width(self) -> int:
        return self.num_key * self.size

    def split(self, qkv_TC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of query, key and value in rows that hold all three."""
        first, second = self.query_width, self.query_width + self.key_width
        return qkv_TC[:, :first], qkv_TC[:, first:second], qkv_TC[:, second:]


class Attention(Protocol):
    """Rows hold query, key and value side by side, and so do their gradients.

    They may be columns of wider rows, but the columns of a row lie next to each other. Results go into tensors that the
    caller gives. `logsumexp` is contiguous, (H, T), in nats: fp32, or fp64 where `Plain` computes in that.
    """

    def forward(self, heads: Heads, forest: Forest, qkv_TC: Tensor, out_TC: Tensor, logsumexp_HT: Tensor) -> None:
        """out = softmax(scale · query keyᵀ) value, over what each token sees; `logsumexp` is that of the scores."""
        ...

    def backward(
        self,
        heads: Heads,
        forest: Forest,
        qkv_TC: Tensor,
        out_TC: Tensor,
        logsumexp_HT: Tensor,
        upstream_TC: Tensor,
        gradient_TC: Tensor,
    ) -> None:
        """`gradient` becomes that of `qkv`, from that of `out` and from what `forward` wrote.

        `upstream` has the strides of `out`, and `gradient` those of `qkv`.
        """
        ...


class Plain:
    """See `Attention`. In any float type."""

    def forward(self, heads: Heads, forest: Forest, qkv_TC: Tensor, out_TC: Tensor, logsumexp_HT: Tensor) -> None:
        for tokens, sees_UU, positions_U in forest.trees():
            query, key, value = _by_head(heads, qkv_TC[tokens], logsumexp_HT.dtype)
            scores_HUU = _scores(heads, query, key, sees_UU, positions_U)
            logsumexp_HT[:, tokens] = torch.logsumexp(scores_HUU, dim=2)
            out_HUC = torch.softmax(scores_HUU, dim=2) @ value
            out_TC[tokens] = out_HUC.transpose(0, 1).flatten(1).to(out_TC.dtype)

    def backward(
        self,
        heads: Heads,
        forest: Forest,
        qkv_TC: Tensor,
        out_TC: Tensor,
        logsumexp_HT: Tensor,
        upstream_TC: Tensor,
        gradient_TC: Tensor,
    ) -> None:
        wide = logsumexp_HT.dtype
        for tokens, sees_UU, positions_U in forest.trees():
            query, key, value = _by_head(heads, qkv_TC[tokens], wide)
            up, out = (_heads_first(item[tokens], heads.size).to(wide) for item in (upstream_TC, out_TC))
            scores_HUU = _scores(heads, query, key, sees_UU, positions_U)
            weights_HUU = (scores_HUU - logsumexp_HT[:, tokens, None]).exp()
            delta_HU1 = (up * out).sum(dim=2, keepdim=True)
            slopes_HUU = weights_HUU * (up @ value.transpose(1, 2) - delta_HU1) * heads.scale
            together = heads.num_query // heads.num_key
            of_query, of_key, of_value = (
                slopes_HUU @ key,
                (slopes_HUU.transpose(1, 2) @ query).view(heads.num_key, together, -1, heads.size).sum(dim=1),
                (weights_HUU.transpose(1, 2) @ up).view(heads.num_key, together, -1, heads.size).sum(dim=1),
            )
            for place, gradient in zip(heads.split(gradient_TC[tokens]), (of_query, of_key, of_value), strict=True):
                place.copy_(gradient.transpose(0, 1).flatten(1))


class Native:
    """See `Attention`. Head sizes are multiples of 16."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward = native.function(library, "attention", "ppplplpppiiilfl")
        self._backward = native.function(library, "attention_backward", "ppplpplpppppp" + "iiilfl")

    def forward(self, heads: Heads, forest: Forest, qkv_TC: Tensor, out_TC: Tensor, logsumexp_HT: Tensor) -> None:
        query, key, value = heads.split(qkv_TC)
        self._forward(
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            qkv_TC.stride(0),
            out_TC.data_ptr(),
            out_TC.stride(0),
            logsumexp_HT.data_ptr(),
            *_shape(heads, forest),
        )

    def backward(
        self,
        heads: Heads,
        forest: Forest,
        qkv_TC: Tensor,
        out_TC: Tensor,
        logsumexp_HT: Tensor,
        upstream_TC: Tensor,
        gradient_TC: Tensor,
    ) -> None:
        assert upstream_TC.stride() == out_TC.stride() and gradient_TC.stride() == qkv_TC.stride()
        query, key, value = heads.split(qkv_TC)
        of_query, of_key, of_value = heads.split(gradient_TC)
        self._backward(
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            qkv_TC.stride(0),
            out_TC.data_ptr(),
            upstream_TC.data_ptr(),
            out_TC.stride(0),
            logsumexp_HT.data_ptr(),
            of_query.data_ptr(),
            of_key.data_ptr(),
            of_value.data_ptr(),
            *_shape(heads, forest),
        )


@cache
def attention(dtype: torch.dtype, head_size: int, device: str = "cpu") -> Attention:
    """The fastest that there is on a kind of device for a model's type and head size."""
    if device != "cpu":
        if gpu.refusal(dtype):
            return Plain()
        from sartor.ops.gpu import forest

        return forest.Trees() if forest.takes(head_size) else Plain()
    library = None if head_size % native.LANES else native.load_for("attention", dtype)
    return Plain() if library is None else Native(library)


def _shape(heads: Heads, forest: Forest) -> tuple[int | float, ...]:
    return (
        forest.offsets_P1.data_ptr(),
        forest.parents_P.data_ptr(),
        forest.num_nodes,
        heads.num_query,
        heads.num_key,
        heads.size,
        heads.scale,
        heads.window,
    )


def _by_head(heads: Heads, qkv_UC: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as (H, U, C), keys and values repeated for the query heads that share them."""
    query, key, value = (_heads_first(item, heads.size).to(wide) for item in heads.split(qkv_UC))
    together = heads.num_query // heads.num_key
    return query, key.repeat_interleave(together, dim=0), value.repeat_interleave(together, dim=0)


def _scores(heads: Heads, query: Tensor, key: Tensor, sees_UU: Tensor, positions_U: Tensor) -> Tensor:
    if heads.window:
        sees_UU = sees_UU & (positions_U[:, None] - positions_U[None] < heads.window)
    scores_HUU = query @ key.transpose(1, 2) * heads.scale
    return scores_HUU.masked_fill(~sees_UU, float("-inf"))


def _heads_first(rows_UC: Tensor, size: int) -> Tensor:
    """(U, heads × C) as (heads, U, C)."""
    return rows_UC.view(len(rows_UC), -1, size).transpose(0, 1)
