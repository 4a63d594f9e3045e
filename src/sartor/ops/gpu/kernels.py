"""What stands between matrix products, in Triton: one program a row, or a block of one; sums and roundings in fp32.

`pointwise.py` calls them and says what goes in. What is stored is rounded once, to the type of the place it goes to.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rms_norm(stream, scale, epsilon, out, out_stride, inverse, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(stream + row * width + columns, mask=inside, other=0.0)
    factor = 1.0 / tl.sqrt(tl.sum(values * values) / width + epsilon)
    scales = tl.load(scale + columns, mask=inside, other=0.0)
    tl.store(inverse + row, factor)
    tl.store(out + row * out_stride + columns, values * factor * scales, mask=inside)


@triton.jit
def rms_norm_backward(upstream, upstream_stride, stream, scale, inverse, passed, gradient, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    scaled = tl.load(upstream + row * upstream_stride + columns, mask=inside, other=0.0).to(tl.float32)
    scaled *= tl.load(scale + columns, mask=inside, other=0.0)
    values = tl.load(stream + row * width + columns, mask=inside, other=0.0)
    factor = tl.load(inverse + row)
    mean = tl.sum(scaled * values) / width * factor * factor
    round_it = tl.load(passed + row * width + columns, mask=inside, other=0.0)
    tl.store(gradient + row * width + columns, round_it + (scaled - values * mean) * factor, mask=inside)


@triton.jit
def add(stream, update, update_stride, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(stream + row * width + columns, mask=inside)
    change = tl.load(update + row * update_stride + columns, mask=inside).to(tl.float32)
    tl.store(out + row * width + columns, values + change, mask=inside)


@triton.jit
def rotate(heads, stride, head_size, num_turned, cosine, sine, num_pairs, sign, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < num_turned
    pair = places % num_pairs
    low = heads + row * stride + places // num_pairs * head_size + pair
    along = tl.load(cosine + row * num_pairs + pair, mask=inside)
    across = tl.load(sine + row * num_pairs + pair, mask=inside) * sign
    first = tl.load(low, mask=inside).to(tl.float32)
    second = tl.load(low + num_pairs, mask=inside).to(tl.float32)
    tl.store(low, first * along - second * across, mask=inside)
    tl.store(low + num_pairs, second * along + first * across, mask=inside)


@triton.jit
def head_norm(source, source_stride, to, to_stride, head_size, scale, epsilon, inverse, BLOCK: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < head_size
    values = tl.load(source + row * source_stride + head * head_size + columns, mask=inside, other=0.0).to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(values * values) / head_size + epsilon)
    scales = tl.load(scale + columns, mask=inside, other=0.0)
    tl.store(inverse + row * tl.num_programs(1) + head, factor)
    tl.store(to + row * to_stride + head * head_size + columns, values * factor * scales, mask=inside)


@triton.jit
def head_norm_backward(
    gradient, gradient_stride, source, source_stride, head_size, scale, inverse, BLOCK: tl.constexpr
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < head_size
    place = gradient + row * gradient_stride + head * head_size + columns
    scaled = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    scaled *= tl.load(scale + columns, mask=inside, other=0.0)
    values = tl.load(source + row * source_stride + head * head_size + columns, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(inverse + row * tl.num_programs(1) + head)
    mean = tl.sum(scaled * values) / head_size * factor * factor
    tl.store(place, (scaled - values * mean) * factor, mask=inside)


@triton.jit
def _opened(gate, KIND: tl.constexpr):
    """activation(gate) and its slope."""
    if KIND == "silu":
        opening = tl.sigmoid(gate)
        slope = opening * (1.0 + gate * (1.0 - opening))
    else:  # gelu_tanh: (1 + tanh x) / 2 is the sigmoid of 2 x
        square = gate * gate
        opening = tl.sigmoid(1.5957691216057308 * gate * (1.0 + 0.044715 * square))
        slope = opening + gate * opening * (1.0 - opening) * 1.5957691216057308 * (1.0 + 0.134145 * square)
    return gate * opening, slope


@triton.jit
def gated(both, out, out_stride, width, KIND: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    place = both + row * 2 * width + columns
    value, _ = _opened(tl.load(place, mask=inside, other=0.0).to(tl.float32), KIND)
    up = tl.load(place + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, value * up, mask=inside)


@triton.jit
def gated_backward(
    upstream, upstream_stride, both, product, product_stride, width, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    place = both + row * 2 * width + columns
    value, slope = _opened(tl.load(place, mask=inside, other=0.0).to(tl.float32), KIND)
    up = tl.load(place + width, mask=inside, other=0.0).to(tl.float32)
    above = tl.load(upstream + row * upstream_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(product + row * product_stride + columns, value * up, mask=inside)
    tl.store(place, above * up * slope, mask=inside)
    tl.store(place + width, above * value, mask=inside)


@triton.jit
def loss_tile(logits, targets, logprobs, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = logits + row * VOCABULARY
    largest, total = float("-inf"), 0.0
    for start in range(0, VOCABULARY, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(places + columns, mask=columns < VOCABULARY, other=float("-inf")).to(tl.float32)
        above = tl.maximum(largest, tl.max(values))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(values - above))
        largest = above
    normaliser = largest + tl.log(total)
    target = tl.load(targets + row)
    known = (target >= 0) & (target < VOCABULARY)  # another one reads nothing, and its loss is no number
    tl.store(logprobs + row, tl.load(places + target, mask=known, other=float("nan")).to(tl.float32) - normaliser)
    tl.debug_barrier()  # the target's logit has been read by all
    for start in range(0, VOCABULARY, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < VOCABULARY
        share = tl.exp(tl.load(places + columns, mask=inside, other=0.0).to(tl.float32) - normaliser)
        tl.store(places + columns, tl.where(columns == target, 1.0, 0.0) - share, mask=inside)
