"""What the parts of a decoder layer take on one GPU, each in the forms that it could have: where a step's time goes.

    python bench/gpu_parts.py                          a layer of llama-3.1-8b, 8,192 tokens in sequences of 2,048
    python bench/gpu_parts.py --models tiny            anywhere, to see that this file works

Microseconds, the median of many calls with a cold cache; FLOP/s and bytes a second by what the mathematics needs. Forms
that this torch or this card does not have are left out with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import gpu
from harness import say
from sartor.ops.forest_attention import Heads, attention, separate
from sartor.ops.pointwise import pointwise

Tensor = torch.Tensor
COLUMNS: gpu.Columns = {
    "microseconds": ("microseconds", ",.0f"),
    "TFLOP/s": ("tflops", ",.0f"),
    "TB/s": ("terabytes", ".2f"),
}
BF16 = torch.bfloat16
SUPERVISED = 2  # one of so many tokens


@dataclass(frozen=True, slots=True)
class Part:
    """Something to time. What is not needed to say of it stays 0."""

    name: str
    run: Callable[[], object]
    flop: float = 0.0
    num_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Sizes:
    tokens: int
    length: int
    width: int
    inner: int
    heads: Heads
    vocabulary: int

    @classmethod
    def of(cls, name: str, tokens: int, length: int) -> Sizes:
        facts = gpu.MODELS[name]
        width, num_query = facts["hidden_size"], facts["num_attention_heads"]
        size = width // num_query
        heads = Heads(num_query, facts["num_key_value_heads"], size, size**-0.5)
        return cls(tokens, length, width, facts["intermediate_size"], heads, facts["vocab_size"])


def draw(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(*shape, device=gpu.device(), dtype=dtype)


# ---- the parts -------------------------------------------------------------------------------------------------------


def products(sizes: Sizes) -> Iterator[Part]:
    """Every product of a layer, plain and with the low ranks in one, and those with the low ranks alone."""
    qkv = sizes.heads.query_width + 2 * sizes.heads.key_width
    each = {
        "q, k, v": (sizes.width, qkv, 3),
        "out": (sizes.heads.query_width, sizes.width, 1),
        "gate, up": (sizes.width, 2 * sizes.inner, 2),
        "down": (sizes.inner, sizes.width, 1),
    }
    for name, (num_in, num_out, members) in each.items():
        yield from forms_of(name, sizes.tokens, num_in, num_out, members * gpu.RANK)
    hidden, head = draw(sizes.tokens // SUPERVISED, sizes.width), draw(sizes.vocabulary, sizes.width)
    flop = 2.0 * len(hidden) * sizes.width * sizes.vocabulary
    yield Part("head: h Wᵀ", lambda: hidden @ head.t(), flop)
    slopes = draw(len(hidden), sizes.vocabulary)
    yield Part("head: slope W", lambda: slopes @ head, flop)


def forms_of(name: str, tokens: int, num_in: int, num_out: int, ranks: int) -> Iterator[Part]:
    """One product forward and backward; `held` is [[W, s B], [A, 0]], of which all forms are views."""
    held, weight = draw(num_out + ranks, num_in + ranks), draw(num_out, num_in)
    x_low, dy_low = draw(tokens, num_in + ranks), draw(tokens, num_out + ranks)
    x, low, dy, dlow = x_low[:, :num_in], x_low[:, num_in:], dy_low[:, :num_out], dy_low[:, num_out:]
    up, down, wide = held[:num_out, num_in:], held[num_out:, :num_in], held[:num_out]
    x_alone, dy_alone, dx_low = x.contiguous(), dy.contiguous(), torch.empty_like(x_low)
    stream, dx = draw(tokens, num_out, dtype=torch.float32), dx_low[:, :num_in]
    flop, of_x, of_dy = 2.0 * tokens * num_in * num_out, 2.0 * tokens * num_in, 2.0 * tokens * num_out
    yield Part(f"{name}: x Wᵀ", lambda: x_alone @ weight.t(), flop)
    yield Part(f"{name}: [x, low] [W, sB]ᵀ", lambda: x_low @ wide.t(), flop)
    yield Part(f"{name}: the same onto an fp32 stream", lambda: onto(stream, x_low, wide.t()), flop)
    yield Part(f"{name}: dy W", lambda: dy_alone @ weight, flop)
    yield Part(f"{name}: dy [W, sB]", lambda: torch.mm(dy_alone, wide, out=dx_low), flop)
    yield Part(f"{name}: [dy, dlow] [W; A]", lambda: dy_low @ held[:, :num_in], flop)
    yield Part(f"{name}: low = x Aᵀ", lambda: torch.mm(x, down.t(), out=low), 0.0, of_x)
    yield Part(f"{name}: dlow = dy sB", lambda: torch.mm(dy, up, out=dlow), 0.0, of_dy)
    yield Part(f"{name}: dx += dlow A", lambda: dx.addmm_(dlow, down), 0.0, 2 * of_x)
    yield Part(f"{name}: dA = dlowᵀ x", lambda: dlow.t() @ x, 0.0, of_x)
    yield Part(f"{name}: dAᵀ = xᵀ dlow", lambda: x.t() @ dlow, 0.0, of_x)
    yield Part(f"{name}: dB = dyᵀ low", lambda: dy.t() @ low, 0.0, of_dy)
    yield Part(f"{name}: dBᵀ = lowᵀ dy", lambda: low.t() @ dy, 0.0, of_dy)


def onto(stream: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """stream + left right, without rounding the product to bf16 first."""
    return torch.addmm(stream, left, right, out_dtype=torch.float32)


def between(sizes: Sizes) -> Iterator[Part]:
    """What stands between the products."""
    tools = pointwise(BF16, device=gpu.device())
    stream, other = (draw(sizes.tokens, sizes.width, dtype=torch.float32) for _ in range(2))
    scale, inverse = draw(sizes.width, dtype=torch.float32), draw(sizes.tokens, dtype=torch.float32)
    rows, both = draw(sizes.tokens, sizes.width), draw(sizes.tokens, 2 * sizes.inner)
    inner, of_inner = draw(sizes.tokens, sizes.inner), draw(sizes.tokens, sizes.inner)
    heads = sizes.heads
    turned = draw(sizes.tokens, heads.query_width + heads.key_width)
    cosine, sine = (draw(sizes.tokens, heads.size // 2, dtype=torch.float32) for _ in range(2))
    area, wide = float(stream.numel()), float(inner.numel())
    yield Part("norm", lambda: tools.rms_norm(stream, scale, 1e-5, rows, inverse), 0.0, 6 * area)
    yield Part(
        "norm backward",
        lambda: tools.rms_norm_backward(rows, stream, scale, inverse, stream, other),
        0.0,
        14 * area,
    )
    yield Part("residual", lambda: tools.add(stream, rows, other), 0.0, 10 * area)
    yield Part("fp32 to bf16", lambda: rows.copy_(stream), 0.0, 6 * area)
    yield Part("gate", lambda: tools.gated("silu", both, inner), 0.0, 6 * wide)
    yield Part("gate backward", lambda: tools.gated_backward("silu", of_inner, both, inner), 0.0, 12 * wide)
    yield Part("rotation", lambda: tools.rotate(turned, heads.size, cosine, sine, 1.0), 0.0, 4.0 * turned.numel())
    logits = draw(sizes.tokens // SUPERVISED, sizes.vocabulary)
    targets = torch.zeros(len(logits), dtype=torch.int64, device=gpu.device())
    logprobs = draw(len(logits), dtype=torch.float32)
    yield Part("loss", lambda: tools.loss_tile(logits, targets, logprobs), 0.0, 6.0 * logits.numel())


def attentions(sizes: Sizes) -> Iterator[Part]:
    """Ours, and torch's."""
    heads, tokens = sizes.heads, sizes.tokens
    ours = attention(BF16, heads.size, gpu.device())
    forest = separate(torch.arange(0, tokens + 1, sizes.length, device=gpu.device()))
    qkv, out, up = (
        draw(tokens, heads.query_width + 2 * heads.key_width),
        *(draw(tokens, heads.query_width) for _ in range(2)),
    )
    sums, gradient = draw(heads.num_query, tokens, dtype=torch.float32), torch.empty_like(qkv)
    flop = 2.0 * tokens * sizes.length * heads.query_width
    yield Part("attention", lambda: ours.forward(heads, forest, qkv, out, sums), flop)
    yield Part("attention backward", lambda: ours.backward(heads, forest, qkv, out, sums, up, gradient), 2.5 * flop)
    for kind in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        yield from torchs(kind, sizes, flop)


def torchs(kind: SDPBackend, sizes: Sizes, flop: float) -> Iterator[Part]:
    """One of torch's, on sequences of one length, its backward with atomics where that is the default."""
    heads, rows = sizes.heads, sizes.tokens // sizes.length
    query, key, value = (
        draw(rows, count, sizes.length, heads.size).requires_grad_()
        for count in (heads.num_query, heads.num_key, heads.num_key)
    )

    def forward() -> Tensor:
        with sdpa_kernel(kind):
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    yield Part(f"attention, {kind.name.lower()}", forward, flop)
    try:
        result = forward()
    except RuntimeError:  # said for the forward already
        return
    upstream = torch.randn_like(result)
    yield Part(
        f"attention backward, {kind.name.lower()}",
        lambda: torch.autograd.grad(result, (query, key, value), upstream, retain_graph=True),
        2.5 * flop,
    )


# ---- timing ----------------------------------------------------------------------------------------------------------


def microseconds(run: Callable[[], object]) -> float:
    """The median of many calls, with a cold cache on a GPU."""
    if torch.cuda.is_available():
        from triton.testing import do_bench

        return 1e3 * float(do_bench(run, warmup=15, rep=60, return_mode="median"))
    run()
    began = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - began)


def timed(model: str, part: Part) -> gpu.Json:
    about = {"model": model, "contestant": part.name}
    try:
        taken = microseconds(part.run)
    except (RuntimeError, TypeError) as error:
        return {**about, "failed": str(error).splitlines()[0][:100]}
    rates = {"tflops": part.flop / taken / 1e6, "terabytes": part.num_bytes / taken / 1e6}
    return {**about, "microseconds": round(taken, 1), **{key: round(value, 2) for key, value in rates.items()}}


def main() -> None:
    asking = gpu.asking_models(__doc__ or "", "llama-3.1-8b")
    asking.add_argument("--tokens", type=int, default=8192, help="of a forward")
    asking.add_argument("--length", type=int, default=gpu.LENGTH, help="of a sequence")
    options = asking.parse_args()
    gpu.require_gpu(options.models)
    results = []
    for name in options.models:
        sizes = Sizes.of(name, options.tokens, options.length)
        for parts in (products, between, attentions):
            for part in parts(sizes):
                results.append(timed(name, part))
                say(str(results[-1]))
    gpu.deliver(results, COLUMNS, options.out)


if __name__ == "__main__":
    main()
