"""Attention along forests, in Triton: a program a block of queries or of keys, and each sum in one order.

`forest.py` calls them and says what goes in. The query heads that share keys stand side by side, so a block of queries
is a block of rows: row r of a node is head r % GROUP of its token r // GROUP. Sums and softmax are fp32, with exp2.

Depth first, all that a block of queries sees lies on its node's path to the root, and all that sees a block of keys
lies between it and the end of its node's subtree. Only the edges of either need masks: the loops that are MASKED.
Rows of a block beyond the end of its node repeat the last one's and are not stored.

Shapes: M a block of rows · N a block of keys · C columns of a head of SIZE, up to a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

#: Triton's interpreter cannot count to a number that it has computed, and a GPU loads ahead in counted loops only.
INTERPRETED: tl.constexpr = tl.constexpr(knobs.runtime.interpret)
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["num_nodes"])
def survey(offsets, parents, positions, ends, num_nodes, BLOCK: tl.constexpr):
    """The position of each token on its path, and the token after each node's subtree."""
    node = tl.program_id(0)
    start, stop = tl.load(offsets + node), tl.load(offsets + node + 1)
    position = start - start
    above = tl.load(parents + node)
    while above >= 0:
        position += tl.load(offsets + above + 1) - tl.load(offsets + above)
        above = tl.load(parents + above)
    while start < stop:
        tokens = start + tl.arange(0, BLOCK)
        tl.store(positions + tokens, position + tl.arange(0, BLOCK), mask=tokens < stop)
        start += BLOCK
        position += BLOCK
    first, end = node + 1, num_nodes
    while first < end:
        nodes = first + tl.arange(0, BLOCK)
        stands_outside = tl.load(parents + nodes, mask=nodes < num_nodes, other=-1) < node
        end = tl.minimum(end, tl.min(tl.where(stands_outside, nodes, num_nodes)))
        first += BLOCK
    tl.store(ends + node, tl.load(offsets + end))


# ---- what all of them do ---------------------------------------------------------------------------------------------


@triton.jit
def _tile(places, inside, MASKED: tl.constexpr, SIZE: tl.constexpr):
    """Rows of a head. `MASKED`: zeros for those that are not inside."""
    if places.shape[1] == SIZE:
        tile = tl.load(places, mask=inside[:, None], other=0.0) if MASKED else tl.load(places)
    else:
        within = (tl.arange(0, places.shape[1]) < SIZE)[None, :]
        if MASKED:
            within = within & inside[:, None]
        tile = tl.load(places, mask=within, other=0.0)
    return tile


@triton.jit
def _keep(places, tile, inside, SIZE: tl.constexpr):
    within = inside[:, None]
    if places.shape[1] != SIZE:
        within = within & (tl.arange(0, places.shape[1]) < SIZE)[None, :]
    tl.store(places, tile.to(places.dtype.element_ty), mask=within)


@triton.jit
def _dot(left, right, onto):
    """Their product, added. The interpreter would take the bits of a bf16 for a whole number."""
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, onto, input_precision="ieee")


@triton.jit
def _block(blocks, num_key, offsets):
    """A program's node and key head, its first row there, and the node's tokens."""
    block, head = tl.program_id(0) // num_key, tl.program_id(0) % num_key
    node = tl.load(blocks + 2 * block)
    its = offsets + tl.maximum(node, 0)  # there may be no node
    return node, head, tl.load(blocks + 2 * block + 1), tl.load(its), tl.load(its + 1)


@triton.jit
def _seen_keys(node, own_start, first, last, offsets, positions, window, WINDOWED: tl.constexpr, BLOCK_N: tl.constexpr):
    """Of a node's keys, for queries `first` to `last`: the first, those between which no mask is needed, and the end.

    With them what to add to a query's token for the first key that its window leaves it.
    """
    start, stop = tl.load(offsets + node), tl.minimum(tl.load(offsets + node + 1), last + 1)
    edge, shift = start, start
    if WINDOWED:
        shift = tl.load(positions + own_start) - own_start - tl.load(positions + start) + start - window + 1
        start = tl.maximum(start, first + shift)
        edge = start + tl.cdiv(tl.maximum(last + shift - start, 0), BLOCK_N) * BLOCK_N
    whole = start + tl.maximum(tl.minimum(stop, first + 1) - start, 0) // BLOCK_N * BLOCK_N
    return start, edge, tl.maximum(whole, edge), stop, shift


@triton.jit
def _sees(keys, tokens, stop, shift, WINDOWED: tl.constexpr):
    """(M, N): whether a query sees a key of one node on its path."""
    seen = (keys[None, :] <= tokens[:, None]) & (keys[None, :] < stop)
    if WINDOWED:
        seen = seen & (keys[None, :] >= (tokens + shift)[:, None])
    return seen


# ---- forward: a block of queries, along its path ---------------------------------------------------------------------


@triton.jit
def _attend(start, rows, source, sight, state, MASKED: tl.constexpr, WINDOWED: tl.constexpr, SIZE: tl.constexpr):
    query_MC, tokens, sharpness = rows
    key, value, stride, places = source
    stop, shift = sight
    mean, largest, total = state
    keys = start + tl.arange(0, places.shape[0])
    here = start.to(tl.int64) * stride
    key_NC = _tile(key + here + places, keys < stop, MASKED, SIZE)
    scores = _dot(query_MC, tl.trans(key_NC), None)
    if MASKED:
        scores = tl.where(_sees(keys, tokens, stop, shift, WINDOWED), scores, float("-inf"))
    above = tl.maximum(largest, tl.max(scores, 1) * sharpness)
    level = above
    if WINDOWED:
        level = tl.where(above == float("-inf"), 0.0, above)  # nothing seen yet: exp2(-inf - -inf) is no number
    weights = tl.math.exp2(scores * sharpness - level[:, None])
    shrink = tl.math.exp2(largest - level)
    value_NC = _tile(value + here + places, keys < stop, MASKED, SIZE)
    mean = _dot(weights.to(value_NC.dtype), value_NC, mean * shrink[:, None])
    return mean, above, total * shrink + tl.sum(weights, 1)


@triton.jit
def _attend_all(
    start, end, rows, source, sight, state, MASKED: tl.constexpr, WINDOWED: tl.constexpr, SIZE: tl.constexpr
):
    """To the keys from `start` to `end`: their weighted sum, the largest score, and the sum of the weights."""
    BLOCK_N: tl.constexpr = source[3].shape[0]
    if INTERPRETED:
        while start < end:
            state = _attend(start, rows, source, sight, state, MASKED, WINDOWED, SIZE)
            start += BLOCK_N
    else:
        for begin in tl.range(start, end, BLOCK_N):
            state = _attend(begin, rows, source, sight, state, MASKED, WINDOWED, SIZE)
    return state


@triton.jit(do_not_specialize=["num_tokens", "window"])
def forward(
    query, key, value, stride, out, out_stride, logsumexp, offsets, parents, positions, blocks, num_tokens,
    num_key, scale, window, GROUP: tl.constexpr, SIZE: tl.constexpr, WINDOWED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    node, head, first_row, own_start, own_end = _block(blocks, num_key, offsets)
    if node < 0:
        return
    rows, columns = first_row + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    inside = own_start + rows // GROUP < own_end
    tokens, heads = tl.minimum(own_start + rows // GROUP, own_end - 1), head * GROUP + rows % GROUP
    first, last, long = tl.min(tokens), tl.max(tokens), tokens.to(tl.int64)
    query_MC = _tile(query + (long * stride + heads * SIZE)[:, None] + columns[None, :], inside, False, SIZE)
    given = query_MC, tokens, scale * LOG2_E
    source = key, value, stride, tl.arange(0, BLOCK_N)[:, None] * stride + (head * SIZE + columns)[None, :]
    mean = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    state = mean, tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    while node >= 0:
        start, edge, whole, stop, shift = _seen_keys(
            node, own_start, first, last, offsets, positions, window, WINDOWED, BLOCK_N
        )
        sight = stop, shift
        if WINDOWED:
            state = _attend_all(start, tl.minimum(edge, stop), given, source, sight, state, True, WINDOWED, SIZE)
        state = _attend_all(edge, whole, given, source, sight, state, False, WINDOWED, SIZE)
        state = _attend_all(whole, stop, given, source, sight, state, True, WINDOWED, SIZE)
        node = tl.load(parents + node)
    mean, largest, total = state
    _keep(out + (long * out_stride + heads * SIZE)[:, None] + columns[None, :], mean / total[:, None], inside, SIZE)
    tl.store(logsumexp + heads * num_tokens + tokens, (largest + tl.math.log2(total)) / LOG2_E, mask=inside)


# ---- gradients of a block of queries, along its path -----------------------------------------------------------------


@triton.jit
def _slope(start, rows, source, sight, gradient, MASKED: tl.constexpr, WINDOWED: tl.constexpr, SIZE: tl.constexpr):
    query_MC, upstream_MC, normaliser, delta, tokens, sharpness = rows
    key, value, stride, places = source
    stop, shift = sight
    keys = start + tl.arange(0, places.shape[0])
    here = start.to(tl.int64) * stride
    key_NC = _tile(key + here + places, keys < stop, MASKED, SIZE)
    value_NC = _tile(value + here + places, keys < stop, MASKED, SIZE)
    weights = tl.math.exp2(_dot(query_MC, tl.trans(key_NC), None) * sharpness - normaliser[:, None])
    if MASKED:
        weights = tl.where(_sees(keys, tokens, stop, shift, WINDOWED), weights, 0.0)
    slopes = weights * (_dot(upstream_MC, tl.trans(value_NC), None) - delta[:, None])
    return _dot(slopes.to(key_NC.dtype), key_NC, gradient)


@triton.jit
def _slope_all(
    start, end, rows, source, sight, gradient, MASKED: tl.constexpr, WINDOWED: tl.constexpr, SIZE: tl.constexpr
):
    """The gradient of queries, without the scale, from the keys from `start` to `end`."""
    BLOCK_N: tl.constexpr = source[3].shape[0]
    if INTERPRETED:
        while start < end:
            gradient = _slope(start, rows, source, sight, gradient, MASKED, WINDOWED, SIZE)
            start += BLOCK_N
    else:
        for begin in tl.range(start, end, BLOCK_N):
            gradient = _slope(begin, rows, source, sight, gradient, MASKED, WINDOWED, SIZE)
    return gradient


@triton.jit(do_not_specialize=["num_tokens", "window"])
def backward_queries(
    query, key, value, stride, out, upstream, out_stride, logsumexp, deltas, of_query, gradient_stride, offsets,
    parents, positions, blocks, num_tokens, num_key, scale, window, GROUP: tl.constexpr, SIZE: tl.constexpr,
    WINDOWED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """With them `deltas`, for the gradients of keys: the sum of output times upstream, a head and token."""
    node, head, first_row, own_start, own_end = _block(blocks, num_key, offsets)
    if node < 0:
        return
    rows, columns = first_row + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    inside = own_start + rows // GROUP < own_end
    tokens, heads = tl.minimum(own_start + rows // GROUP, own_end - 1), head * GROUP + rows % GROUP
    first, last, long = tl.min(tokens), tl.max(tokens), tokens.to(tl.int64)
    out_places = (long * out_stride + heads * SIZE)[:, None] + columns[None, :]
    upstream_MC = _tile(upstream + out_places, inside, False, SIZE)
    delta = tl.sum(_tile(out + out_places, inside, False, SIZE).to(tl.float32) * upstream_MC.to(tl.float32), 1)
    tl.store(deltas + heads * num_tokens + tokens, delta, mask=inside)
    normaliser = tl.load(logsumexp + heads * num_tokens + tokens) * LOG2_E
    query_MC = _tile(query + (long * stride + heads * SIZE)[:, None] + columns[None, :], inside, False, SIZE)
    given = query_MC, upstream_MC, normaliser, delta, tokens, scale * LOG2_E
    source = key, value, stride, tl.arange(0, BLOCK_N)[:, None] * stride + (head * SIZE + columns)[None, :]
    gradient = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    while node >= 0:
        start, edge, whole, stop, shift = _seen_keys(
            node, own_start, first, last, offsets, positions, window, WINDOWED, BLOCK_N
        )
        sight = stop, shift
        if WINDOWED:
            gradient = _slope_all(start, tl.minimum(edge, stop), given, source, sight, gradient, True, WINDOWED, SIZE)
        gradient = _slope_all(edge, whole, given, source, sight, gradient, False, WINDOWED, SIZE)
        gradient = _slope_all(whole, stop, given, source, sight, gradient, True, WINDOWED, SIZE)
        node = tl.load(parents + node)
    places = of_query + (long * gradient_stride + heads * SIZE)[:, None] + columns[None, :]
    _keep(places, gradient * scale, inside, SIZE)


# ---- gradients of a block of keys, over all that see it --------------------------------------------------------------


@triton.jit
def _gather(
    row, keys, source, sums, MASKED: tl.constexpr, WINDOWED: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    key_NC, value_NC, tokens_N, highest_N, sharpness = keys
    query, stride, upstream, out_stride, logsumexp, deltas, positions, num_tokens, end = source
    of_key, of_value = sums
    rows, columns = tl.arange(0, BLOCK_M), tl.arange(0, key_NC.shape[1])
    if STEP % GROUP:  # otherwise each block begins with a token's first head
        rows += row % GROUP
    after, heads = rows // GROUP, rows % GROUP
    tokens = row // GROUP + after
    inside, here, beside = tokens < end, (row // GROUP).to(tl.int64), heads * num_tokens + tokens
    if STEP < BLOCK_M:
        inside = inside & (tl.arange(0, BLOCK_M) < STEP)
    places = (after * stride + heads * SIZE)[:, None] + columns[None, :]
    query_MC = _tile(query + here * stride + places, inside, True, SIZE)
    normaliser = tl.load(logsumexp + beside, mask=inside, other=0.0) * LOG2_E
    weights = tl.math.exp2(_dot(key_NC, tl.trans(query_MC), None) * sharpness - normaliser[None, :])
    if MASKED:
        seen = tokens_N[:, None] <= tokens[None, :]
        if WINDOWED:
            seen = seen & (tl.load(positions + tokens, mask=inside, other=0)[None, :] <= highest_N[:, None])
        weights = tl.where(seen, weights, 0.0)
    places = (after * out_stride + heads * SIZE)[:, None] + columns[None, :]
    upstream_MC = _tile(upstream + here * out_stride + places, inside, True, SIZE)
    of_value = _dot(weights.to(upstream_MC.dtype), upstream_MC, of_value)
    delta = tl.load(deltas + beside, mask=inside, other=0.0)
    slopes = weights * (_dot(value_NC, tl.trans(upstream_MC), None) - delta[None, :])
    return _dot(slopes.to(query_MC.dtype), query_MC, of_key), of_value


@triton.jit
def _gather_all(
    row, row_end, keys, source, sums, MASKED: tl.constexpr, WINDOWED: tl.constexpr, GROUP: tl.constexpr,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The gradients of keys, without the scale, and of values, from the rows from `row` to `row_end`."""
    if INTERPRETED:
        while row < row_end:
            sums = _gather(row, keys, source, sums, MASKED, WINDOWED, GROUP, SIZE, BLOCK_M, STEP)
            row += STEP
    else:
        for begin in tl.range(row, row_end, STEP):
            sums = _gather(begin, keys, source, sums, MASKED, WINDOWED, GROUP, SIZE, BLOCK_M, STEP)
    return sums


@triton.jit(do_not_specialize=["num_tokens", "window"])
def backward_keys(
    query, key, value, stride, upstream, out_stride, logsumexp, deltas, of_key, of_value, gradient_stride, offsets,
    ends, positions, blocks, num_tokens, num_key, scale, window, GROUP: tl.constexpr, SIZE: tl.constexpr,
    WINDOWED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """`STEP`: how many rows of a block are taken, whole tokens where a block holds one."""
    node, head, first_row, own_start, own_end = _block(blocks, num_key, offsets)
    if node < 0:
        return
    first, columns = own_start + first_row, tl.arange(0, BLOCK_C)
    last = tl.minimum(first + BLOCK_N, own_end) - 1
    inside = first + tl.arange(0, BLOCK_N) < own_end
    tokens = tl.minimum(first + tl.arange(0, BLOCK_N), last)
    long = tokens.to(tl.int64)
    places = (long * stride + head * SIZE)[:, None] + columns[None, :]
    key_NC, value_NC = _tile(key + places, inside, False, SIZE), _tile(value + places, inside, False, SIZE)
    end, edge, highest = tl.load(ends + node), own_end, tokens
    if WINDOWED:
        edge = tl.minimum(own_end, first + window)  # after it not all keys are seen, or positions begin anew
        if last + window <= own_end:
            end = last + window
        highest = tokens + (tl.load(positions + own_start) - own_start + window - 1)
    # Rows on the diagonal, those that see the whole block, and those at a window's edge.
    row, row_end = first * GROUP, end * GROUP
    whole = row + tl.cdiv((last - first) * GROUP, STEP) * STEP
    row_edge = whole + tl.maximum(edge * GROUP - whole, 0) // STEP * STEP if WINDOWED else row_end
    ahead = head * GROUP
    source = (
        query + ahead * SIZE, stride, upstream + ahead * SIZE, out_stride, logsumexp + ahead * num_tokens,
        deltas + ahead * num_tokens, positions, num_tokens, end,
    )  # fmt: skip
    keys = key_NC, value_NC, tokens, highest, scale * LOG2_E
    sums = tl.zeros((BLOCK_N, BLOCK_C), tl.float32), tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    sums = _gather_all(row, tl.minimum(whole, row_end), keys, source, sums, True, WINDOWED, GROUP, SIZE, BLOCK_M, STEP)
    sums = _gather_all(whole, row_edge, keys, source, sums, False, WINDOWED, GROUP, SIZE, BLOCK_M, STEP)
    if WINDOWED:
        sums = _gather_all(row_edge, row_end, keys, source, sums, True, WINDOWED, GROUP, SIZE, BLOCK_M, STEP)
    places = (long * gradient_stride + head * SIZE)[:, None] + columns[None, :]
    _keep(of_key + places, sums[0] * scale, inside, SIZE)
    _keep(of_value + places, sums[1], inside, SIZE)
