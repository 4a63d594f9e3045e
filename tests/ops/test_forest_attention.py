"""Attention along forests: torch's own on every path, the twin, and the kernel, forward and backward.

Shapes: T tokens · H query heads · G key heads · C columns of heads.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from sartor.ops import forest_attention, native
from sartor.ops.forest_attention import Forest, Heads, Native, Plain, separate

from .conftest import COUNTS, ELEMENTS, forest_of, random_forest, relative

HEADS = Heads(4, 2, 32, 32**-0.5)
SHAPES = (HEADS, Heads(3, 1, 16, 0.3), Heads(2, 2, 64, 0.125), Heads(6, 3, 48, 0.2), Heads(2, 1, 80, 0.1))
#: Segments; one tree of several depths with a stranger between; a chain; one node; many small segments.
FORESTS = (
    forest_of([0, 5, 40, 41, 141], [-1, -1, -1, -1]),
    forest_of([0, 20, 33, 90, 110, 111, 130], [-1, 0, 0, 2, -1, 4]),
    forest_of([0, 70, 160, 161], [-1, 0, 1]),
    forest_of([0, 130], [-1]),
    forest_of(list(range(0, 100, 7)), [-1] * 14),
)
WINDOWS = (0, 1, 5, 30, 64, 1000)


def rows(heads: Heads, forest: Forest, element: torch.dtype, *, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Query, key and value side by side, (T, C), and an upstream gradient of the output."""
    num_tokens = int(forest.offsets_P1[-1])
    generator = torch.Generator().manual_seed(num_tokens)
    qkv_TC = torch.randn(num_tokens, heads.query_width + 2 * heads.key_width, generator=generator)
    qkv_TC[:, : heads.query_width] *= scale
    return qkv_TC.to(element), torch.randn(num_tokens, heads.query_width, generator=generator).to(element)


def run(
    kernel: Plain | Native, heads: Heads, forest: Forest, qkv_TC: torch.Tensor, upstream_TC: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Output, log-sum-exp and gradient. The output's rows are columns of wider ones, as the blocks keep them."""
    num_tokens, wide = len(qkv_TC), torch.float64 if qkv_TC.dtype == torch.float64 else torch.float32
    out_TC, up_TC = (torch.full((num_tokens, heads.query_width + 16), float("nan"), dtype=qkv_TC.dtype) for _ in "ou")
    mine, up = out_TC[:, : heads.query_width], up_TC[:, : heads.query_width]
    up.copy_(upstream_TC)
    logsumexp_HT, gradient_TC = torch.empty(heads.num_query, num_tokens, dtype=wide), torch.full_like(qkv_TC, torch.nan)
    kernel.forward(heads, forest, qkv_TC, mine, logsumexp_HT)
    kernel.backward(heads, forest, qkv_TC, mine, logsumexp_HT, up, gradient_TC)
    assert out_TC[:, heads.query_width :].isnan().all(), "it wrote beside its rows"
    return mine, logsumexp_HT, gradient_TC


def kernel_of(element: torch.dtype, size: int = 32) -> Native:
    found = forest_attention.attention(element, size)
    assert isinstance(found, Native), native.problem()
    return found


def compare(heads: Heads, forest: Forest, element: torch.dtype, *, scale: float = 1.0) -> None:
    """The kernel against its twin in fp64 on the same values; in bf16, weights are rounded once before their product.

    At large scores the gradient is the difference of two numbers near each other, one of them made of rounded outputs.
    """
    inputs = rows(heads, forest, element, scale=scale)
    found = run(kernel_of(element, heads.size), heads, forest, *inputs)
    wanted = run(Plain(), heads, forest, *(item.double() for item in inputs))
    for name, ours, twin in zip(("output", "log-sum-exp", "gradient"), found, wanted, strict=True):
        limit = 1e-6 * scale if element == torch.float32 or name == "log-sum-exp" else 2**-8 if scale == 1 else 2**-7
        assert relative(ours, twin) < limit, name
        assert float((ours - twin).abs().max()) < 3 * limit * float(twin.abs().max()), name


# ---- the twin is right -----------------------------------------------------------------------------------------------


def path_of(forest: Forest, node: int) -> torch.Tensor:
    """The tokens that a node's last one sees: from the root down to itself."""
    spans, parents, found = list(pairwise(forest.offsets_P1.tolist())), forest.parents_P.tolist(), []
    while node >= 0:
        found = [*range(*spans[node]), *found]
        node = parents[node]
    return torch.tensor(found)


def by_paths(heads: Heads, forest: Forest, qkv_TC: torch.Tensor) -> torch.Tensor:
    """torch's attention on each path by itself, of which its last node's rows are kept."""
    found = []
    for node, (start, end) in enumerate(pairwise(forest.offsets_P1.tolist())):
        path = path_of(forest, node)
        query, key, value = (
            item[path].view(len(path), -1, heads.size).transpose(0, 1)[None] for item in heads.split(qkv_TC)
        )
        ages = torch.arange(len(path))[:, None] - torch.arange(len(path))
        sees = (ages >= 0) & (ages < (heads.window or len(path)))
        out = F.scaled_dot_product_attention(query, key, value, sees, scale=heads.scale, enable_gqa=True)
        found.append(out[0].transpose(0, 1).flatten(1)[len(path) - (end - start) :])
    return torch.cat(found)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("forest", FORESTS)
def test_the_twin_is_torchs_attention_on_every_path(forest: Forest, window: int) -> None:
    heads = replace(HEADS, window=window)
    qkv_TC, upstream_TC = (item.double() for item in rows(heads, forest, torch.float32))
    out_TC, _, gradient_TC = run(Plain(), heads, forest, qkv_TC, upstream_TC)
    leaf_TC = qkv_TC.clone().requires_grad_()
    wanted_TC = by_paths(heads, forest, leaf_TC)
    wanted_TC.backward(upstream_TC)
    assert leaf_TC.grad is not None
    torch.testing.assert_close(out_TC, wanted_TC.detach())
    torch.testing.assert_close(gradient_TC, leaf_TC.grad)


# ---- the kernel is its twin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("forest", FORESTS)
@pytest.mark.parametrize("element", ELEMENTS)
def test_the_kernel_is_its_twin_on_forests_with_windows(element: torch.dtype, forest: Forest, window: int) -> None:
    compare(replace(HEADS, window=window), forest, element)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("heads", SHAPES)
@pytest.mark.parametrize("element", ELEMENTS)
def test_the_kernel_is_its_twin_at_odd_lengths_and_sizes(element: torch.dtype, heads: Heads, count: int) -> None:
    compare(heads, forest_of([0, count, 2 * count, 2 * count + 3], [-1, 0, -1]), element)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("element", ELEMENTS)
def test_the_kernel_is_its_twin_on_folded_batches(element: torch.dtype, seed: int) -> None:
    compare(replace(HEADS, window=(0, 24)[seed % 2]), random_forest(seed), element)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_kernel_is_its_twin_however_the_work_is_shared_out(num_threads: int) -> None:
    """Few trees for the threads: a head at a time; many: the heads that share keys together."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for forest in (FORESTS[1], FORESTS[4]):
            for element in ELEMENTS:
                compare(SHAPES[3], forest, element)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("plainer_processor")
def test_the_kernel_is_its_twin_on_plainer_processors() -> None:
    for forest in (*FORESTS, *(forest_of([0, count], [-1]) for count in COUNTS)):
        for heads in (*SHAPES, replace(HEADS, window=30)):
            compare(heads, forest, torch.float32)


@pytest.mark.parametrize("element", ELEMENTS)
def test_large_scores_stay_finite_and_right(element: torch.dtype) -> None:
    compare(HEADS, FORESTS[1], element, scale=1000.0)


@pytest.mark.parametrize("element", ELEMENTS)
def test_equal_scores_give_the_mean_of_what_is_seen(element: torch.dtype) -> None:
    forest = forest_of([0, 60], [-1])
    qkv_TC, upstream_TC = rows(HEADS, forest, element)
    qkv_TC[:, : HEADS.query_width] = 0
    for kernel in (kernel_of(element), Plain()):
        out_TC, logsumexp_HT, gradient_TC = run(kernel, HEADS, forest, qkv_TC, upstream_TC)
        value_TC = qkv_TC[:, -HEADS.key_width :].float().view(60, 2, 1, 32).expand(-1, -1, 2, -1).flatten(1)
        means_TC = value_TC.cumsum(0) / torch.arange(1, 61)[:, None]
        assert relative(out_TC, means_TC) < (1e-6 if element == torch.float32 else 2**-8)
        torch.testing.assert_close(logsumexp_HT, torch.arange(1, 61).float().log().expand(4, -1))
        of_key_TC = HEADS.split(gradient_TC)[1]
        assert of_key_TC.abs().max() == 0, "a query of zero tells no key anything"


@pytest.mark.parametrize("element", ELEMENTS)
def test_the_same_call_gives_the_same_bits(element: torch.dtype) -> None:
    inputs = rows(HEADS, FORESTS[1], element)
    first, second = (run(kernel_of(element), HEADS, FORESTS[1], *inputs) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_branch_does_not_see_its_siblings(element: torch.dtype) -> None:
    forest = FORESTS[1]
    qkv_TC, upstream_TC = rows(HEADS, forest, element)
    before = run(kernel_of(element), HEADS, forest, qkv_TC, upstream_TC)[0].clone()
    qkv_TC[20:33] += 1.0  # node 1; nodes 2 and 3 stand beside it, 4 and 5 in another tree
    moved = (run(kernel_of(element), HEADS, forest, qkv_TC, upstream_TC)[0] != before).any(dim=1)
    assert moved[20:33].all()
    assert not moved[:20].any()
    assert not moved[33:].any()


def test_shared_keys_gather_the_gradients_of_all_who_see_them() -> None:
    """A prefix with two branches against the same two written out as segments."""
    shared, apart = forest_of([0, 20, 33, 50], [-1, 0, 0]), forest_of([0, 33, 70], [-1, -1])
    qkv_TC, upstream_TC = rows(HEADS, shared, torch.float32)
    places = torch.cat([torch.arange(33), torch.arange(20), torch.arange(33, 50)])
    once, twice = upstream_TC.clone(), upstream_TC[places]
    once[:20] *= 2  # both copies of the prefix have the same upstream gradient
    _, _, gradient_TC = run(kernel_of(torch.float32), HEADS, shared, qkv_TC, once)
    _, _, copies_TC = run(kernel_of(torch.float32), HEADS, apart, qkv_TC[places], twice)
    summed_TC = torch.zeros_like(gradient_TC).index_add_(0, places, copies_TC)
    assert relative(gradient_TC, summed_TC) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("window", [0, 5])
def test_the_twin_runs_on_a_gpu(window: int) -> None:
    """There it stands in for heads and types without a kernel."""
    heads, forest = replace(HEADS, window=window), FORESTS[1]
    inputs = [item.double() for item in rows(heads, forest, torch.float32)]
    there = Forest(forest.offsets_P1.cuda(), forest.parents_P.cuda())
    found = run(Plain(), heads, there, *(item.cuda() for item in inputs))
    for ours, wanted in zip(found, run(Plain(), heads, forest, *inputs), strict=True):
        torch.testing.assert_close(ours.cpu(), wanted)


# ---- forests, and which one is taken ---------------------------------------------------------------------------------


def test_a_forest_knows_its_trees() -> None:
    forest = forest_of([0, 2, 4, 5, 6], [-1, 0, 0, -1])
    (first, sees_UU, positions_U), (second, _, _) = forest.trees()
    assert (first, second) == (slice(0, 5), slice(5, 6))
    assert positions_U.tolist() == [0, 1, 2, 3, 2]
    assert sees_UU.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert forest.num_nodes == 4
    apart = separate(torch.tensor([0, 3, 9]))
    assert apart.offsets_P1.dtype == apart.parents_P.dtype == torch.int32
    assert apart.parents_P.tolist() == [-1, -1]


def test_sizes_and_types_without_a_kernel_take_the_twin() -> None:
    assert isinstance(forest_attention.attention(torch.float32, 24), Plain)
    assert isinstance(forest_attention.attention(torch.float64, 32), Plain)
    assert isinstance(forest_attention.attention(torch.bfloat16, 32), Native)


@pytest.mark.usefixtures("without_native")
def test_switched_off_the_twin_is_taken() -> None:
    assert isinstance(forest_attention.attention(torch.float32, 32), Plain)
