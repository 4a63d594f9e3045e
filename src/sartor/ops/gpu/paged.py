"""The paged cache of a running batch on a GPU, behind the interface of `ops/decode.py`, whose `PlainPages` is the twin.

Shapes: as there.
"""

from __future__ import annotations

import numpy as np
import torch
from triton import next_power_of_2

from sartor.ops.decode import PAGE, Flat, copy_page
from sartor.ops.gpu import paged_kernels

SMALLEST = 16  # rows of a matrix product
PROMPT_TOKENS = 16  # of one program, where a span has several: at most
MOST_NUMBERS = 128 * 128  # of the queries of one program, which stay on its processor
KEYS = 64


class TritonPages:
    """See `Pages`. A layer's keys, and its values, are one tensor (slots, G, D)."""

    def __init__(self, num_pages: int) -> None:
        self._num_pages = num_pages
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._laid_out: tuple[Flat, int, torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def copy(self, source: int, target: int) -> None:
        copy_page(self._layers, self._num_pages, source, target)

    def write(self, layer: int, key_TGD: torch.Tensor, value_TGD: torch.Tensor, flat: Flat) -> None:
        if layer not in self._layers:
            size = (self._num_pages * PAGE, *key_TGD.shape[1:])
            self._layers[layer] = key_TGD.new_empty(size), key_TGD.new_empty(size)
        for cache, new in zip(self._layers[layer], (key_TGD, value_TGD), strict=True):
            cache.index_copy_(0, flat.slots_T, new)

    def attend(
        self, layer: int, query_THD: torch.Tensor, flat: Flat, *, scale: float, window: int, softcap: float
    ) -> torch.Tensor:
        keys, values = self._layers[layer]
        query_THD = query_THD.to(keys.dtype)
        if query_THD.stride(2) != 1:
            query_THD = query_THD.contiguous()
        (_, num_heads, size), num_groups = query_THD.shape, keys.shape[1]
        mixed_THD = query_THD.new_empty(query_THD.shape)
        group = num_heads // num_groups
        tokens = 1 if all(span.length == 1 for span in flat.spans) else tokens_of_program(group, size)
        blocks, spans, pages = self._tables(flat, tokens)
        paged_kernels.attend[len(blocks), num_groups](
            query_THD, *query_THD.stride()[:2], mixed_THD, keys, values, blocks, spans, pages, scale, softcap, window,
            NUM_HEADS=num_heads, NUM_GROUPS=num_groups, SIZE=size, PAGE=PAGE, CAPPED=softcap > 0, TOKENS=tokens,
            ROWS=rows_of_program(tokens, group), KEYS=KEYS, WIDTH=next_power_of_2(size),
        )  # fmt: skip
        return mixed_THD

    def _tables(self, flat: Flat, step: int) -> tuple[torch.Tensor, ...]:
        """Which tokens each program takes, (blocks, 2); what each span is, (S, 4); all pages. Once for a forward
        whose layers have heads alike."""
        if self._laid_out is None or self._laid_out[0] is not flat or self._laid_out[1] != step:
            firsts = [
                (number, first) for number, span in enumerate(flat.spans) for first in range(0, span.length, step)
            ]
            tables = np.cumsum([0, *(len(span.pages) for span in flat.spans)])
            facts = [
                (start, span.length, span.before, table)
                for start, span, table in zip(flat.starts, flat.spans, tables, strict=False)
            ]
            pages = [page for span in flat.spans for page in span.pages]
            parts = (np.array(part, dtype=np.int32) for part in (firsts, facts, pages))
            on_device = [torch.from_numpy(part).to(flat.device) for part in parts]
            self._laid_out = (flat, step, on_device[0], on_device[1], on_device[2])
        return self._laid_out[2:]


def tokens_of_program(group: int, size: int) -> int:
    """Tokens of a prompt that one program reads: as many as leave room for all query heads of their key head."""
    most: int = MOST_NUMBERS // (group * next_power_of_2(size))
    return min(PROMPT_TOKENS, max(1, most))


def rows_of_program(tokens: int, group: int) -> int:
    """Rows of its products."""
    rows: int = next_power_of_2(tokens * group)
    return max(SMALLEST, rows)
