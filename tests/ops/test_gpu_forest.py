"""A GPU's attention along forests against its plain twin in fp64. Without a GPU, Triton's interpreter runs it.

Shapes: T tokens · H query heads · C columns of heads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sartor.ops import gpu
from sartor.ops.forest_attention import Attention, Forest, Heads, Plain

from .conftest import ONE_ROUNDING, forest_of, random_forest, relative
from .test_forest_attention import FORESTS, rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(bool(gpu.refusal(torch.bfloat16)), reason=gpu.refusal(torch.bfloat16))
#: The interpreter cuts off what a GPU rounds. A gradient is of weights and of slopes, each rounded before a product.
LIMITS = {torch.float32: 1e-6, torch.bfloat16: (2 if DEVICE == "cpu" else 1) * ONE_ROUNDING}
MANY = FORESTS[1]  # two trees, three depths
SMALL = forest_of([0, 20, 33, 50, 57], [-1, 0, 0, -1])
#: A long beginning, branches of which one is empty, and a stranger: many blocks of keys and of rows.
LONG = forest_of([0, 150, 290, 300, 300, 310], [-1, 0, 1, 0, -1])


def attention() -> Attention:
    from sartor.ops.gpu.forest import Trees

    return Trees()


def run(
    kernel: Attention, heads: Heads, forest: Forest, qkv_TC: torch.Tensor, upstream_TC: torch.Tensor, room: int = 16
) -> tuple[torch.Tensor, ...]:
    """Output, log-sum-exp and gradient. All rows are columns of wider ones, as the blocks keep them."""
    wide = torch.promote_types(qkv_TC.dtype, torch.float32)
    whole = [torch.nn.functional.pad(item, (0, room), value=7.0) for item in (qkv_TC, qkv_TC, upstream_TC, upstream_TC)]
    qkv_TC, gradient_TC, up_TC, out_TC = (item[:, : item.shape[1] - room] for item in whole)
    for item in (gradient_TC, out_TC):
        item.fill_(float("nan"))
    logsumexp_HT = torch.full((heads.num_query, len(qkv_TC)), float("nan"), dtype=wide, device=qkv_TC.device)
    kernel.forward(heads, forest, qkv_TC, out_TC, logsumexp_HT)
    kernel.backward(heads, forest, qkv_TC, out_TC, logsumexp_HT, up_TC, gradient_TC)
    assert all(bool((item[:, item.shape[1] - room :] == 7.0).all()) for item in whole), "it wrote beside its rows"
    return out_TC, logsumexp_HT, gradient_TC


def ours(kernel: Attention, heads: Heads, forest: Forest, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    there = Forest(forest.offsets_P1.to(DEVICE), forest.parents_P.to(DEVICE))
    return tuple(item.cpu() for item in run(kernel, heads, there, *(item.to(DEVICE) for item in inputs)))


def compare(heads: Heads, forest: Forest, element: torch.dtype, *, scale: float = 1.0) -> None:
    inputs = rows(heads, forest, element, scale=scale)
    found = ours(attention(), heads, forest, *inputs)
    wanted = run(Plain(), heads, forest, *(item.double() for item in inputs))
    for name, mine, twin in zip(("output", "log-sum-exp", "gradient"), found, wanted, strict=True):
        limit = 1e-6 if name == "log-sum-exp" else LIMITS[element]
        assert relative(mine, twin) < limit * scale, name
        for part, its in zip(heads.split(mine), heads.split(twin), strict=True) if name == "gradient" else ():
            far = float((part - its).norm()) - 1e-6 * float(twin.norm())  # a window of 1 has slopes of zero
            assert far < 2 * limit * scale * float(its.norm()), "a part of the gradient"


@pytest.mark.parametrize("forest", FORESTS)
def test_it_gives_its_twins_numbers_on_every_forest(forest: Forest) -> None:
    compare(Heads(2, 1, 16, 0.25), forest, torch.float32)


@pytest.mark.parametrize(("forest", "window"), [(MANY, 5), (MANY, 64), (FORESTS[2], 64)])
def test_windows_go_along_paths(forest: Forest, window: int) -> None:
    compare(Heads(2, 1, 16, 0.3, window), forest, torch.float32)


@pytest.mark.parametrize("window", [0, 1, 30, 130])
def test_it_gives_its_twins_numbers_over_many_blocks(window: int) -> None:
    compare(Heads(3, 1, 16, 0.3, window), LONG, torch.bfloat16)


@pytest.mark.parametrize("heads", [Heads(4, 2, 16, 0.25), Heads(2, 2, 48, 0.2), Heads(2, 1, 64, 0.125)])
@pytest.mark.parametrize("element", LIMITS)
def test_it_gives_its_twins_numbers_for_other_heads(element: torch.dtype, heads: Heads) -> None:
    compare(heads, SMALL, element)


@pytest.mark.parametrize("size", [80, 128, 240])
def test_it_gives_its_twins_numbers_in_large_heads(size: int) -> None:
    compare(Heads(2, 1, size, size**-0.5), SMALL, torch.bfloat16)


@pytest.mark.parametrize(("group", "element"), [(6, torch.bfloat16), (33, torch.float32)])
def test_a_block_may_end_within_a_token_or_hold_none_whole(group: int, element: torch.dtype) -> None:
    compare(Heads(group, 1, 16, 0.25), forest_of([0, 20, 24], [-1, 0]), element)


def test_it_gives_its_twins_numbers_on_a_folded_batch() -> None:
    compare(Heads(2, 1, 16, 0.3, 24), random_forest(0), torch.bfloat16)


@pytest.mark.filterwarnings("ignore:overflow")
def test_large_scores_stay_finite_and_right() -> None:
    compare(Heads(2, 1, 16, 0.25), SMALL, torch.float32, scale=100.0)


def test_the_same_call_gives_the_same_bits_and_another_forest_other_ones() -> None:
    heads, kernel = Heads(2, 1, 16, 0.25), attention()
    inputs = rows(heads, SMALL, torch.bfloat16)
    first, again = (ours(kernel, heads, SMALL, *inputs) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    alone = ours(kernel, heads, forest_of([0, 57], [-1]), *inputs)
    assert not torch.equal(first[0], alone[0]), "it took the last forest's map"


def test_a_branch_does_not_see_its_siblings() -> None:
    heads = Heads(2, 1, 16, 0.25)
    qkv_TC, upstream_TC = rows(heads, SMALL, torch.bfloat16)
    before = ours(attention(), heads, SMALL, qkv_TC, upstream_TC)[0]
    qkv_TC[20:33] += 1.0  # node 1; node 2 stands beside it, node 3 in another tree
    moved = (ours(attention(), heads, SMALL, qkv_TC, upstream_TC)[0] != before).any(dim=1)
    assert moved[20:33].all()
    assert not moved[:20].any()
    assert not moved[33:].any()


@pytest.mark.parametrize("forest", [*FORESTS, LONG])
def test_its_map_of_a_forest_is_right(forest: Forest) -> None:
    from sartor.ops.gpu.forest import _Map

    num_tokens, spans = int(forest.offsets_P1[-1]), list(forest.trees())
    there = Forest(forest.offsets_P1.to(DEVICE), forest.parents_P.to(DEVICE))
    found = _Map(there, num_tokens)
    assert found.positions_T.tolist() == torch.cat([positions for _, _, positions in spans]).tolist()
    seen_by = torch.block_diag(*(sees_UU.int() for _, sees_UU, _ in spans))
    for size, group in ((8, 0), (8, 3), (64, 1)):
        of_nodes: dict[int, list[int]] = {}
        for node, row in found.blocks(size, group).tolist():
            of_nodes.setdefault(node, []).append(row)
        of_nodes.pop(-1, None)
        for node in range(forest.num_nodes):
            count = int(forest.offsets_P1[node + 1] - forest.offsets_P1[node])
            assert sorted(of_nodes.get(node, [])) == list(range(0, count * max(group, 1), size))
            if count:
                last = int(seen_by[:, forest.offsets_P1[node]].nonzero().max())
                assert int(found.ends_P[node]) == last + 1


def test_it_takes_heads_of_whole_tiles() -> None:
    from sartor.ops.gpu.forest import takes

    assert takes(80)
    assert takes(256)
    assert not takes(72)
    assert not takes(272)


def test_cards_with_little_shared_memory_run_the_kernels_too() -> None:
    """Compiled, without the card, for compute capability 8.6 (A10, RTX 30): 99 KiB for a program."""
    script, name = Path(__file__).with_name("gpu_cards.py"), "backward_keys 4 x 128"
    made = subprocess.run(
        [sys.executable, str(script), "86", "small", name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    assert 0 < json.loads(made.stdout)[name] <= 99 << 10
