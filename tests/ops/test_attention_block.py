"""The attention half of a layer: plain mathematics forward, differences backward, in fp64 and in every variant.

Shapes: T tokens · D width of the stream · C columns of heads · N wanted rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sartor.ops.attention_block import RECOMPUTED, AttentionBlock
from sartor.ops.block import Pass, masters_of
from sartor.ops.forest_attention import Heads
from sartor.ops.joint_linear import JointLinear

from .conftest import adapted, forest_of, gradients_are_right, norm_of, pass_of, plain_tools

WIDTH, HEADS = 6, Heads(4, 2, 4, 0.7)
FOREST = forest_of([0, 3, 5, 6, 8], [-1, 0, 0, -1])
POLICIES = (frozenset[str](), RECOMPUTED)
WANTED = torch.tensor([1, 4, 7])
VARIANTS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "bias (Qwen2)": {"bias": True},
    "head norms (Qwen3)": {"head_norms": True},
    "a norm after (Gemma 3)": {"head_norms": True, "after": True},
    "a window": {"window": 2},
    "all trained": {"bias": True, "head_norms": True, "after": True, "base": True, "norms": True},
    "no adapter": {"rank": 0, "base": True},
    "only norms": {"rank": 0, "head_norms": True, "after": True, "norms": True},
}


def block_of(
    *, rank: int = 2, bias: bool = False, base: bool = False, norms: bool = False, head_norms: bool = False,
    after: bool = False, window: int = 0, index: int = 0,
) -> AttentionBlock:  # fmt: skip
    sizes = {"q": (WIDTH, HEADS.query_width), "k": (WIDTH, HEADS.key_width), "v": (WIDTH, HEADS.key_width)}
    inputs = adapted(sizes, rank=rank, bias=bias, base=base)
    out = adapted({"o": (HEADS.query_width, WIDTH)}, rank=rank, bias=bias, base=base)
    return AttentionBlock(
        index,
        norm_of(WIDTH, trained=norms),
        JointLinear([*inputs.values()], torch.float64),
        JointLinear([*out.values()], torch.float64),
        replace(HEADS, window=window),
        plain_tools(),
        tuple(norm_of(HEADS.size, trained=norms) for _ in range(2)) if head_norms else (),
        (norm_of(WIDTH, trained=norms),) if after else (),
    )


def stream() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def passing(block: AttentionBlock, recompute: frozenset[str] = frozenset()) -> Pass:
    return pass_of(block.tools, FOREST, HEADS.size // 2, recompute)


def fresh(block: AttentionBlock, stream_TD: torch.Tensor, recompute: frozenset[str], rows_N: Any) -> torch.Tensor:
    for part in block.parts:
        part.refresh()
    return block(stream_TD, passing(block, recompute), rows_N)


def by_hand(block: AttentionBlock, stream_TD: torch.Tensor, run: Pass) -> torch.Tensor:
    """What the block computes, one line of torch for each line of its docstring (without adapters)."""
    heads, width = block.heads, WIDTH
    x_TD = F.rms_norm(stream_TD, (width,), block.norm.scale_D, block.norm.epsilon)
    qkv_TC = F.linear(x_TD, block.qkv._joint_NKR, block.qkv._bias_N)
    turned = []
    for part, item in enumerate(heads.split(qkv_TC)):
        by_head = item.view(8, -1, heads.size)
        if part < 2:
            if block.head_norms:
                norm = block.head_norms[part]
                by_head = F.rms_norm(by_head, (heads.size,), norm.scale_D, norm.epsilon)
            low, high = by_head.chunk(2, dim=2)
            cosine, sine = run.cosine_TR[:, None], run.sine_TR[:, None]
            by_head = torch.cat([low * cosine - high * sine, high * cosine + low * sine], dim=2)
        turned.append(by_head.transpose(0, 1)[None])
    sees = torch.block_diag(*(sees for _, sees, _ in FOREST.trees())).bool()
    positions_T = torch.cat([positions for _, _, positions in FOREST.trees()])
    if heads.window:
        sees &= positions_T[:, None] - positions_T < heads.window
    out = F.scaled_dot_product_attention(*turned, sees, scale=heads.scale, enable_gqa=True)
    update_TD = F.linear(out[0].transpose(0, 1).flatten(1), block.out._joint_NKR, block.out._bias_N)
    for norm in block.after:
        update_TD = F.rms_norm(update_TD, (width,), norm.scale_D, norm.epsilon)
    return stream_TD + update_TD


@pytest.mark.parametrize(
    "variant", [{}, {"bias": True}, {"head_norms": True}, {"head_norms": True, "after": True}, {"window": 2}]
)
def test_the_forward_is_plain_mathematics(variant: dict[str, Any]) -> None:
    block = block_of(rank=0, **variant)
    run = passing(block)
    torch.testing.assert_close(block(stream(), run).detach(), by_hand(block, stream(), run).detach())


@pytest.mark.parametrize("rows_N", [None, WANTED], ids=["all rows", "wanted rows"])
@pytest.mark.parametrize("recompute", POLICIES, ids=["saved", "recomputed"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_gradients_equal_differences(variant: dict[str, Any], recompute: frozenset[str], rows_N: Any) -> None:
    block, stream_TD = block_of(**variant), stream()
    inputs = (stream_TD, *masters_of(block.parts))
    assert gradients_are_right(lambda: fresh(block, stream_TD, recompute, rows_N), *inputs)


@pytest.mark.parametrize("recompute", POLICIES, ids=["saved", "recomputed"])
@pytest.mark.parametrize("variant", [VARIANTS["Llama"], VARIANTS["all trained"]], ids=["Llama", "all trained"])
def test_below_the_lowest_adapter_nothing_is_asked_and_the_masters_get_the_same(
    variant: dict[str, Any], recompute: frozenset[str]
) -> None:
    block, stream_TD = block_of(index=5, **variant), stream()
    masters = masters_of(block.parts)
    wanted = torch.autograd.grad(fresh(block, stream_TD, recompute, None).sin().sum(), [stream_TD, *masters])[1:]
    found = torch.autograd.grad(fresh(block, stream_TD.detach(), recompute, None).sin().sum(), masters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_wanted_rows_are_those_of_the_whole() -> None:
    block, stream_TD = block_of(), stream()
    whole_TD, some_ND = (fresh(block, stream_TD, frozenset(), rows_N) for rows_N in (None, WANTED))
    torch.testing.assert_close(some_ND, whole_TD[WANTED])
    slopes_ND = torch.randn(3, WIDTH, dtype=torch.float64)
    inputs = [stream_TD, *masters_of(block.parts)]
    for one, other in zip(
        torch.autograd.grad(whole_TD[WANTED], inputs, slopes_ND), torch.autograd.grad(some_ND, inputs, slopes_ND),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("recompute", POLICIES, ids=["saved", "recomputed"])
def test_no_wanted_rows_give_no_rows_and_no_gradient(recompute: frozenset[str]) -> None:
    block, stream_TD = block_of(bias=True, after=True, base=True, norms=True), stream()
    none_ND = fresh(block, stream_TD, recompute, torch.empty(0, dtype=torch.long))
    assert none_ND.shape == (0, WIDTH)
    found = torch.autograd.grad(none_ND.sum(), [stream_TD, *masters_of(block.parts)])
    assert not any(bool(item.any()) for item in found)


@pytest.mark.parametrize("of_input", [True, False])
def test_the_backward_of_the_lowest_block_ends_the_round(of_input: bool) -> None:
    block, stream_TD = block_of(), stream()
    run = passing(block)
    block(stream_TD if of_input else stream_TD.detach(), run).sum().backward()
    assert run.round is not None
    next_round = block.tools.workspace.begin()
    assert next_round._buffers is run.round._buffers
    assert block.tools.workspace.begin()._buffers is not run.round._buffers, "it was given back once"


def test_a_planted_fault_trips_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    block, stream_TD = block_of(), stream()
    forward_only = type(block.tools.pointwise).rotate
    monkeypatch.setattr(
        type(block.tools.pointwise), "rotate", lambda self, *given: forward_only(self, *given[:-1], abs(given[-1]))
    )
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradients_are_right(lambda: fresh(block, stream_TD, frozenset(), None), stream_TD, *masters_of(block.parts))
