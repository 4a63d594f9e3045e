"""The feed-forward half of a layer: plain mathematics forward, differences backward, in fp64 and in every variant.

Shapes: T tokens · D width of the stream.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sartor.ops.block import masters_of
from sartor.ops.gated_block import RECOMPUTED, GatedBlock
from sartor.ops.joint_linear import JointLinear
from sartor.ops.pointwise import Activation

from .conftest import adapted, forest_of, gradients_are_right, norm_of, pass_of, plain_tools

WIDTH, INNER = 6, 10
FOREST = forest_of([0, 7], [-1])
POLICIES = (frozenset[str](), RECOMPUTED)
VARIANTS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "gelu (Gemma)": {"activation": "gelu_tanh"},
    "bias": {"bias": True},
    "a norm after (Gemma 3)": {"after": True, "activation": "gelu_tanh"},
    "all trained": {"bias": True, "after": True, "base": True, "norms": True},
    "no adapter": {"rank": 0, "base": True},
    "only norms": {"rank": 0, "after": True, "norms": True},
}


def block_of(
    *, rank: int = 2, bias: bool = False, base: bool = False, norms: bool = False, after: bool = False,
    activation: Activation = "silu",
) -> GatedBlock:  # fmt: skip
    inputs = adapted({"gate": (WIDTH, INNER), "up": (WIDTH, INNER)}, rank=rank, bias=bias, base=base)
    down = adapted({"down": (INNER, WIDTH)}, rank=rank, bias=bias, base=base)
    return GatedBlock(
        0,
        norm_of(WIDTH, trained=norms),
        JointLinear([*inputs.values()], torch.float64),
        JointLinear([*down.values()], torch.float64),
        activation,
        plain_tools(),
        (norm_of(WIDTH, trained=norms),) if after else (),
    )


def stream() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(7, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def fresh(block: GatedBlock, stream_TD: torch.Tensor, recompute: frozenset[str]) -> torch.Tensor:
    for part in block.parts:
        part.refresh()
    return block(stream_TD, pass_of(block.tools, FOREST, 2, recompute))


@pytest.mark.parametrize("variant", [{}, {"activation": "gelu_tanh"}, {"bias": True}, {"after": True}])
def test_the_forward_is_plain_mathematics(variant: dict[str, Any]) -> None:
    block, stream_TD = block_of(rank=0, **variant), stream().detach()
    x_TD = F.rms_norm(stream_TD, (WIDTH,), block.norm.scale_D, block.norm.epsilon)
    gate_TF, up_TF = F.linear(x_TD, block.gate_up._joint_NKR, block.gate_up._bias_N).chunk(2, dim=1)
    opened_TF = F.silu(gate_TF) if block.activation == "silu" else F.gelu(gate_TF, approximate="tanh")
    update_TD = F.linear(opened_TF * up_TF, block.down._joint_NKR, block.down._bias_N)
    for norm in block.after:
        update_TD = F.rms_norm(update_TD, (WIDTH,), norm.scale_D, norm.epsilon)
    torch.testing.assert_close(fresh(block, stream_TD, frozenset()), stream_TD + update_TD)


@pytest.mark.parametrize("recompute", POLICIES, ids=["saved", "recomputed"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_gradients_equal_differences(variant: dict[str, Any], recompute: frozenset[str]) -> None:
    block, stream_TD = block_of(**variant), stream()
    assert gradients_are_right(lambda: fresh(block, stream_TD, recompute), stream_TD, *masters_of(block.parts))


@pytest.mark.parametrize("recompute", POLICIES, ids=["saved", "recomputed"])
@pytest.mark.parametrize("variant", [VARIANTS["Llama"], VARIANTS["all trained"]], ids=["Llama", "all trained"])
def test_below_the_lowest_adapter_nothing_is_asked_and_the_masters_get_the_same(
    variant: dict[str, Any], recompute: frozenset[str]
) -> None:
    block, stream_TD = block_of(**variant), stream()
    masters = masters_of(block.parts)
    wanted = torch.autograd.grad(fresh(block, stream_TD, recompute).sin().sum(), [stream_TD, *masters])[1:]
    found = torch.autograd.grad(fresh(block, stream_TD.detach(), recompute).sin().sum(), masters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_no_rows_are_no_work() -> None:
    block = block_of(bias=True, after=True, base=True, norms=True)
    none_TD = stream()[:0].detach().requires_grad_()
    result_TD = block(none_TD, pass_of(block.tools, FOREST, 2))
    assert result_TD.shape == (0, WIDTH)
    assert not any(bool(item.any()) for item in torch.autograd.grad(result_TD.sum(), masters_of(block.parts)))


@pytest.mark.parametrize("of_input", [True, False])
def test_the_round_goes_on_to_the_attention_below_where_there_is_one(of_input: bool) -> None:
    block, stream_TD = block_of(), stream()
    run = pass_of(block.tools, FOREST, 2)
    block(stream_TD if of_input else stream_TD.detach(), run).sum().backward()
    assert run.round is not None
    assert (block.tools.workspace.begin()._buffers is run.round._buffers) is not of_input
