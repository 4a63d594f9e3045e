"""Layers that read the same input as one product: PEFT's outputs, PEFT's gradients, nothing held twice.

Shapes: T tokens · K inputs · N outputs · R ranks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sartor.errors import Unsupported
from sartor.ops.joint_linear import JointLinear

from .conftest import ELEMENTS, adapted, gradients_are_right

SIZES = {"q": (6, 8), "k": (6, 4), "v": (6, 4)}


class Product(torch.autograd.Function):
    """The formulas of a joint layer as the blocks use them, by themselves."""

    @staticmethod
    def forward(ctx: Any, x_TK: torch.Tensor, joint: JointLinear, *masters: torch.Tensor) -> torch.Tensor:
        x_TKR = torch.full((len(x_TK), joint.width), torch.nan, dtype=x_TK.dtype)
        x_TKR[:, : joint.num_inputs] = x_TK
        out_TN = torch.full((len(x_TK), joint.num_outputs), torch.nan, dtype=x_TK.dtype)
        joint.product(x_TKR, out_TN)
        ctx.joint, ctx.low_TR = joint, joint.keep_low(x_TKR, torch.empty(len(x_TK), joint.num_low, dtype=x_TK.dtype))
        ctx.save_for_backward(x_TK)
        return out_TN

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x_TK,), joint = ctx.saved_tensors, ctx.joint
        x_TKR, dx_TKR = (torch.full((len(x_TK), joint.width), torch.nan, dtype=x_TK.dtype) for _ in range(2))
        x_TKR[:, : joint.num_inputs] = x_TK
        joint.put_low(x_TKR, ctx.low_TR)
        masters = joint.back(upstream[0], x_TKR, dx_TKR, of_input=ctx.needs_input_grad[0])
        return dx_TKR[:, : joint.num_inputs], None, *masters


def outputs(layers: dict[str, nn.Module], x_TK: torch.Tensor) -> torch.Tensor:
    return torch.cat([layer(x_TK) for layer in layers.values()], dim=1)


def gradients(result: torch.Tensor, masters: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    slopes = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return torch.autograd.grad(result, masters, slopes)


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_outputs_and_gradients_are_those_of_the_layers(rank: int, bias: bool, base: bool) -> None:
    layers = adapted(SIZES, rank=rank, bias=bias, base=base)
    x_TK = torch.randn(5, 6, dtype=torch.float64).requires_grad_()
    wanted_TN = outputs(layers, x_TK)
    joint = JointLinear([*layers.values()], torch.float64)
    assert (joint.width, joint.num_inputs, joint.num_outputs) == (6 + joint.num_low, 6, 16)
    assert 0 <= joint.num_low - 3 * rank < 16, "ranks, and columns of zeros that bring rows to a good width"
    assert len(joint.masters) == 3 * (2 * bool(rank) + base + base * bias)
    found_TN = Product.apply(x_TK, joint, *joint.masters)
    torch.testing.assert_close(found_TN.detach(), wanted_TN.detach())
    leaves = [x_TK, *joint.masters]
    named = outputs(layers, x_TK)  # again: base weights have become views of the joint one
    for ours, theirs in zip(gradients(found_TN, leaves), gradients(named, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert gradients_are_right(lambda: _fresh(joint, x_TK), x_TK, *joint.masters)


def _fresh(joint: JointLinear, x_TK: torch.Tensor) -> torch.Tensor:
    joint.refresh()
    result: torch.Tensor = Product.apply(x_TK, joint, *joint.masters)
    return result


def test_layers_with_and_without_adapter_stand_side_by_side() -> None:
    layers = {**adapted({"q": (6, 8)}), **adapted({"k": (6, 4)}, rank=0), **adapted({"v": (6, 4)}, rank=3)}
    x_TK = torch.randn(5, 6, dtype=torch.float64)
    wanted_TN = outputs(layers, x_TK).detach()
    joint = JointLinear([*layers.values()], torch.float64)
    found_TN = Product.apply(x_TK, joint, *joint.masters)
    torch.testing.assert_close(found_TN.detach(), wanted_TN)
    for ours, theirs in zip(
        gradients(found_TN, joint.masters), gradients(outputs(layers, x_TK), joint.masters), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_without_the_inputs_gradient_those_of_the_masters_are_the_same() -> None:
    joint = JointLinear([*adapted(SIZES).values()], torch.float64)
    x_TK = torch.randn(5, 6, dtype=torch.float64)
    frozen = gradients(Product.apply(x_TK, joint, *joint.masters), joint.masters)
    asked = gradients(Product.apply(x_TK.clone().requires_grad_(), joint, *joint.masters), joint.masters)
    for one, other in zip(frozen, asked, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_base_weight_is_a_view_and_nothing_is_held_twice(element: torch.dtype) -> None:
    layers = adapted(SIZES, dtype=element)
    before = [layer.get_parameter("base_layer.weight").detach().clone() for layer in layers.values()]
    JointLinear([*layers.values()], element)
    after = [layer.get_parameter("base_layer.weight") for layer in layers.values()]
    assert len({item.untyped_storage().data_ptr() for item in after}) == 1
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(item.requires_grad for item in after)


def test_gradients_of_bf16_products_are_fp32_for_fp32_masters() -> None:
    joint = JointLinear([*adapted(SIZES, dtype=torch.bfloat16).values()], torch.bfloat16)
    found_TN = Product.apply(torch.randn(5, 6).bfloat16(), joint, *joint.masters)
    assert all(item.dtype == torch.float32 for item in gradients(found_TN, joint.masters))


@pytest.mark.parametrize("base", [False, True])
def test_refresh_carries_an_update_of_the_masters(base: bool) -> None:
    layers = adapted(SIZES, bias=True, base=base)
    joint = JointLinear([*layers.values()], torch.float64)
    x_TK = torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        for master in joint.masters:
            master.add_(torch.randn_like(master))
    joint.refresh()
    torch.testing.assert_close(Product.apply(x_TK, joint, *joint.masters), outputs(layers, x_TK))


def test_no_rows_are_no_work() -> None:
    joint = JointLinear([*adapted(SIZES, bias=True, base=True).values()], torch.float64)
    found_TN = Product.apply(torch.empty(0, 6, dtype=torch.float64).requires_grad_(), joint, *joint.masters)
    assert found_TN.shape == (0, 16)
    assert all(not item.any() for item in gradients(found_TN, joint.masters))


@pytest.mark.parametrize(
    ("lora", "why"),
    [({"lora_dropout": 0.1}, "dropout"), ({"use_dora": True}, "a variant"), ({"lora_bias": True}, "bias")],
)
def test_an_adapter_beyond_lora_is_refused(lora: dict[str, Any], why: str) -> None:
    bias = "lora_bias" in lora  # PEFT wants one in the base layer too
    layers = adapted({"q": (6, 8)}, dtype=torch.float32, bias=bias, **lora)
    with pytest.raises(Unsupported, match=f"a LoRA layer with .*{why}"):
        JointLinear([*layers.values()], torch.float32)


def test_another_kind_of_layer_is_refused_by_name() -> None:
    class Quantised(nn.Linear): ...

    with pytest.raises(Unsupported, match=r"a layer of type \S+\.Quantised"):
        JointLinear([nn.Linear(4, 4), Quantised(4, 4)], torch.float32)
