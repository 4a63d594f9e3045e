"""Attention along forests on a GPU: Triton's kernels behind the interface of `ops/forest_attention.py`.

The twin, and what is computed: `Plain` there. Shared beginnings are read where they lie, by all who see them. Sums are
fp32 and in one order: the same call gives the same bits on a card. Block sizes are fixed, since others would give
others.

Shapes: T tokens · H query heads · G key/value heads · C head size · P nodes · B blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from triton import next_power_of_2

from sartor.ops.forest_attention import Forest, Heads, Tensor
from sartor.ops.gpu import SHORT, forest_kernels

LARGEST_HEAD, STEP = 256, 16  # of head sizes
SURVEY = 1024  # tokens or nodes that one program looks at together

#: By the columns of a head that a program computes with: rows and keys of a block, warps, and loads under way.
FORWARD = {64: (128, 64, 4, 3), 128: (128, 64, 8, 3), 256: (128, 32, 8, 2)}
BACKWARD_QUERIES = {64: (128, 64, 8, 2), 128: (128, 64, 8, 2), 256: (64, 32, 8, 2)}
BACKWARD_KEYS = {64: (64, 128, 8, 2), 128: (64, 128, 8, 2), 256: (16, 64, 8, 2)}
#: Shared memory of a program: the most that `BACKWARD_KEYS` asks for. Cards of compute capability 8.6, 8.9 and 12.0
#: have 99 KiB for each, and get smaller blocks.
ROOMY = 113 << 10
SMALL_BACKWARD_KEYS = {**BACKWARD_KEYS, 128: (64, 64, 8, 2)}
UNSHORT = (32, 32, 4, 1)  # for tests in fp32, which no GPU multiplies fast
Options = dict[str, int]


def takes(head_size: int) -> bool:
    """Whether there are kernels for heads of this size."""
    return head_size <= LARGEST_HEAD and head_size % STEP == 0


class Trees:
    """See `Attention`. `logsumexp` is fp32, and so are sums over keys."""

    def __init__(self) -> None:
        self._map: _Map | None = None  # of the last forest: the layers of a model ask for the same

    def forward(self, heads: Heads, forest: Forest, qkv_TC: Tensor, out_TC: Tensor, logsumexp_HT: Tensor) -> None:
        found, options = self._of(forest, len(qkv_TC)), _options(FORWARD, heads, qkv_TC)
        blocks_B2 = found.blocks(options["BLOCK_M"], heads.num_query // heads.num_key)
        forest_kernels.forward[len(blocks_B2) * heads.num_key,](
            *heads.split(qkv_TC),
            qkv_TC.stride(0),
            out_TC,
            out_TC.stride(0),
            logsumexp_HT,
            forest.offsets_P1,
            forest.parents_P,
            found.positions_T,
            blocks_B2,
            len(qkv_TC),
            **_sizes(heads),
            **options,
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
        assert upstream_TC.stride() == out_TC.stride()
        found, num_tokens, query_key_value = self._of(forest, len(qkv_TC)), len(qkv_TC), heads.split(qkv_TC)
        of_query, of_key, of_value = heads.split(gradient_TC)
        deltas_HT = torch.empty_like(logsumexp_HT)
        options = _options(BACKWARD_QUERIES, heads, qkv_TC)
        blocks_B2 = found.blocks(options["BLOCK_M"], heads.num_query // heads.num_key)
        forest_kernels.backward_queries[len(blocks_B2) * heads.num_key,](
            *query_key_value,
            qkv_TC.stride(0),
            out_TC,
            upstream_TC,
            out_TC.stride(0),
            logsumexp_HT,
            deltas_HT,
            of_query,
            gradient_TC.stride(0),
            forest.offsets_P1,
            forest.parents_P,
            found.positions_T,
            blocks_B2,
            num_tokens,
            **_sizes(heads),
            **options,
        )
        options = _options(BACKWARD_KEYS if _is_roomy(qkv_TC.device) else SMALL_BACKWARD_KEYS, heads, qkv_TC)
        blocks_B2 = found.blocks(options["BLOCK_N"])
        forest_kernels.backward_keys[len(blocks_B2) * heads.num_key,](
            *query_key_value,
            qkv_TC.stride(0),
            upstream_TC,
            out_TC.stride(0),
            logsumexp_HT,
            deltas_HT,
            of_key,
            of_value,
            gradient_TC.stride(0),
            forest.offsets_P1,
            found.ends_P,
            found.positions_T,
            blocks_B2,
            num_tokens,
            STEP=_step(options["BLOCK_M"], heads.num_query // heads.num_key),
            **_sizes(heads),
            **options,
        )

    def _of(self, forest: Forest, num_tokens: int) -> _Map:
        if self._map is None or self._map.forest is not forest:
            self._map = _Map(forest, num_tokens)
        return self._map


class _Map:
    """What the kernels need to know of a forest, made on its device without waiting for it."""

    def __init__(self, forest: Forest, num_tokens: int) -> None:
        self.forest = forest
        self.positions_T = forest.offsets_P1.new_empty(num_tokens, dtype=torch.int32)
        self.ends_P = torch.empty_like(forest.parents_P)
        forest_kernels.survey[forest.num_nodes,](
            forest.offsets_P1, forest.parents_P, self.positions_T, self.ends_P, forest.num_nodes, BLOCK=SURVEY
        )
        self._blocks: dict[tuple[int, int], Tensor] = {}

    def blocks(self, size: int, group: int = 0) -> Tensor:
        """(B, 2): the node of a block (-1: there is none) and its first row there; what takes longest first.

        Blocks of queries have `group` rows a token, and see what lies before them; blocks of keys, with a group of 0,
        one, and are seen by what comes after them.
        """
        if (size, group) not in self._blocks:
            self._blocks[size, group] = self._made(size, group)
        return self._blocks[size, group]

    def _made(self, size: int, group: int) -> Tensor:
        offsets_P1, rows = self.forest.offsets_P1, max(group, 1)
        num_tokens, num_nodes = len(self.positions_T), self.forest.num_nodes
        num_P = ((offsets_P1[1:] - offsets_P1[:-1]) * rows + size - 1) // size
        through_P = num_P.cumsum(0, dtype=torch.int32)
        most = num_tokens * rows // size + num_nodes
        number_B = torch.arange(most, dtype=torch.int32, device=offsets_P1.device)
        node_B = torch.searchsorted(through_P, number_B, right=True, out_int32=True)
        there_B, node_B = node_B < num_nodes, node_B.clamp(max=num_nodes - 1)
        row_B = (number_B - (through_P - num_P)[node_B]) * size
        token_B = (offsets_P1[node_B] + row_B // rows).clamp(max=num_tokens - 1)
        work_B = self.positions_T[token_B] if group else self.ends_P[node_B] - token_B
        order_B = work_B.where(there_B, -1).argsort(descending=True, stable=True)
        return torch.stack((node_B.where(there_B, -1), row_B), dim=1)[order_B]


def _sizes(heads: Heads) -> dict[str, Any]:
    return {
        "num_key": heads.num_key,
        "scale": heads.scale,
        "window": heads.window,
        "GROUP": heads.num_query // heads.num_key,
        "SIZE": heads.size,
        "WINDOWED": heads.window > 0,
        "BLOCK_C": next_power_of_2(heads.size),
    }


def _options(sizes: dict[int, tuple[int, int, int, int]], heads: Heads, qkv_TC: Tensor) -> Options:
    found = sizes[max(next_power_of_2(heads.size), min(sizes))] if qkv_TC.dtype in SHORT else UNSHORT
    return dict(zip(("BLOCK_M", "BLOCK_N", "num_warps", "num_stages"), found, strict=True))


def _is_roomy(device: torch.device) -> bool:
    if device.type != "cuda":  # Triton's interpreter
        return True
    properties: Any = torch.cuda.get_device_properties(device)
    if torch.version.hip:  # which does not say
        return False
    return bool(properties.shared_memory_per_block_optin >= ROOMY)


def _step(size: int, group: int) -> int:
    """Rows that are taken together: those of whole tokens, where they find room."""
    return size // group * group or size
