"""Attention of a running batch over a paged cache, in Triton: a program for some tokens of one span and one key head.

`paged.py` calls it and says what goes in. Sums are fp32; what is stored is rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(
    query, query_token, query_head, mixed, keys, values, blocks, spans, pages, scale, softcap, window,
    NUM_HEADS: tl.constexpr, NUM_GROUPS: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr, CAPPED: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    TOGETHER: tl.constexpr = NUM_HEADS // NUM_GROUPS
    block, group = tl.program_id(0), tl.program_id(1)
    span, first = tl.load(blocks + 2 * block), tl.load(blocks + 2 * block + 1)
    start, length = tl.load(spans + 4 * span), tl.load(spans + 4 * span + 1)
    before, table = tl.load(spans + 4 * span + 2), tl.load(spans + 4 * span + 3)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    place = first + rows // TOGETHER
    head = group * TOGETHER + rows % TOGETHER
    asks = ((rows < TOKENS * TOGETHER) & (place < length))[:, None] & (columns < SIZE)[None, :]
    token = (start + place).to(tl.int64)
    asked = tl.load(query + token[:, None] * query_token + head[:, None] * query_head + columns[None, :], asks, 0.0)
    position = before + place
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    gathered = tl.zeros([ROWS, WIDTH], tl.float32)
    end = before + tl.minimum(first + TOKENS, length)
    key = tl.maximum(0, before + first - window + 1) // KEYS * KEYS
    while key < end:
        places = key + tl.arange(0, KEYS)
        there = places < end
        slot = tl.load(pages + table + places // PAGE, there, 0).to(tl.int64) * PAGE + places % PAGE
        inside = there[:, None] & (columns < SIZE)[None, :]
        where = (slot * NUM_GROUPS + group)[:, None] * SIZE + columns[None, :]
        scores = tl.dot(asked, tl.trans(tl.load(keys + where, inside, 0.0)), input_precision="ieee") * scale
        if CAPPED:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        back = position[:, None] - places[None, :]
        scores = tl.where((back < 0) | (back >= window), float("-inf"), scores)
        above = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(above == float("-inf"), 0.0, above)  # a row may see nothing of this block
        weights, shrink = tl.exp(scores - base[:, None]), tl.exp(largest - base)
        read = tl.load(values + where, inside, 0.0)
        gathered = gathered * shrink[:, None] + tl.dot(weights.to(read.dtype), read, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        largest = above
        key += KEYS
    gathered /= tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(mixed + (token * NUM_HEADS + head)[:, None] * SIZE + columns[None, :], gathered, asks)
