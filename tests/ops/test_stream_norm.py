"""Norms of every family as a scale and an epsilon; their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sartor.errors import Unsupported
from sartor.ops.stream_norm import StreamNorm


def weights(width: int = 24) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(1)) * 0.3


@pytest.mark.parametrize(
    ("module", "shift"),
    [(LlamaRMSNorm(24, eps=1e-3), 0.0), (GemmaRMSNorm(24, eps=1e-3), 1.0), (nn.RMSNorm(24, eps=1e-3), 0.0)],
    ids=["weight", "one plus weight", "torch's"],
)
def test_scale_and_epsilon_give_the_modules_own_result(module: nn.Module, shift: float) -> None:
    module.get_parameter("weight").data = weights()
    norm = StreamNorm(module, torch.float32)
    assert norm.epsilon == 1e-3
    torch.testing.assert_close(norm.scale_D, weights() + shift)
    values_TD = torch.randn(5, 24)
    made_TD = F.rms_norm(values_TD, (24,), norm.scale_D, norm.epsilon)
    torch.testing.assert_close(made_TD, module(values_TD).detach())


def test_a_bf16_weight_gives_an_fp32_scale_and_hooks_have_no_say() -> None:
    module = LlamaRMSNorm(24).to(torch.bfloat16)
    module.weight.data = weights().bfloat16()
    module.register_forward_hook(lambda norm, inputs, output: output * 2)
    norm = StreamNorm(module, torch.float32)
    torch.testing.assert_close(norm.scale_D, weights().bfloat16().float())


def test_a_trained_weight_is_a_master_and_refresh_reads_it() -> None:
    module = nn.RMSNorm(24, eps=1e-5)
    norm = StreamNorm(module, torch.float32)
    assert norm.masters == [module.weight]
    with torch.no_grad():
        module.weight.mul_(3)
    assert float(norm.scale_D[0]) == pytest.approx(1.0)
    norm.refresh()
    assert float(norm.scale_D[0]) == pytest.approx(3.0)
    module.weight.requires_grad_(False)
    frozen = StreamNorm(module, torch.float32)
    assert frozen.masters == []
    assert frozen.gradients(torch.ones(2, 24), torch.ones(2, 24), torch.ones(2)) == []


def test_the_gradient_is_autograds() -> None:
    module = nn.RMSNorm(24, eps=1e-5, dtype=torch.float64)
    values_TD, upstream_TD = torch.randn(7, 24, dtype=torch.float64), torch.randn(7, 24, dtype=torch.float64)
    module(values_TD).backward(upstream_TD)
    norm = StreamNorm(module, torch.float64)
    (found_D,) = norm.gradients(upstream_TD, values_TD, (values_TD.square().mean(1) + 1e-5).rsqrt())
    torch.testing.assert_close(found_D, module.weight.grad)


@pytest.mark.parametrize(
    "module",
    [nn.LayerNorm(24), nn.Identity(), nn.RMSNorm(24, eps=1e-5, elementwise_affine=False), nn.RMSNorm(24)],
    ids=["a bias", "no epsilon", "no weight", "an epsilon of None"],
)
def test_other_norms_are_refused_by_name(module: nn.Module) -> None:
    with pytest.raises(Unsupported, match=f"a norm of type {type(module).__name__}"):
        StreamNorm(module, torch.float32)
