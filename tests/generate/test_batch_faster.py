"""Norms and gated layers by one call: where they give the same numbers, and nowhere else."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from sartor.adapters.changes import Changes, LowRank, Scale
from sartor.generate.batch.faster import APART, Gated, Norm, faster_norm
from sartor.generate.batch.layers import prepare
from sartor.generate.batch.runs import BASE
from sartor.ops import native

DTYPES = (torch.float32, torch.bfloat16)
needs_kernels = pytest.mark.skipif(bool(native.problem()), reason=native.problem())
SIZES = {"hidden_size": 32, "intermediate_size": 48, "mlp_bias": False}


def part_of(family: str, kind: str, *arguments: Any, **settings: Any) -> nn.Module:
    """A module of transformers' own code for a family."""
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    made: nn.Module = vars(module)[kind](*arguments, **settings)
    return made


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 3, 16), (1, 3, 4, 16), (2, 16), (1, 0, 16)], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_norms(family: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    norm = part_of(family, f"{family.capitalize()}RMSNorm", 16, eps=1e-5)
    nn.init.normal_(norm.weight, 0.5)
    norm = norm.to(dtype)
    x = torch.randn(size).to(dtype)
    wanted = norm(x).detach()
    outer = nn.ModuleDict({"norm": norm})
    prepare(outer, [])
    assert isinstance(outer["norm"], Norm)
    found = outer["norm"](x)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    torch.testing.assert_close(found, wanted, rtol=APART[dtype], atol=APART[dtype])


@pytest.mark.parametrize("kernels", [True, False])
def test_gemmas_scale_is_not_rounded(monkeypatch: pytest.MonkeyPatch, kernels: bool) -> None:
    """1 + 0.0173 is no number of bf16: rounded before it is used, every norm is as much too small or too large."""
    norm = part_of("gemma3", "Gemma3RMSNorm", 16, eps=1e-6)
    nn.init.constant_(norm.weight, 0.0173)
    norm = norm.to(torch.bfloat16)
    found = faster_norm(norm)
    assert isinstance(found, Norm)
    if not kernels:
        monkeypatch.setattr(found, "_kernel", None)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    exact = norm.double()(x.double())
    assert float((found(x).double() - exact).norm() / exact.norm()) < 0.002


def test_a_norm_of_heads_that_are_columns_of_wider_rows() -> None:
    norm = part_of("qwen3", "Qwen3RMSNorm", 16)
    x = torch.randn(1, 5, 3 * 16)[..., 16:].view(1, 5, 2, 16)
    torch.testing.assert_close(faster_norm(norm)(x), norm(x).detach())


def test_a_norm_of_a_width_that_kernels_do_not_have_is_torchs() -> None:
    norm = part_of("llama", "LlamaRMSNorm", 12)
    x = torch.randn(1, 3, 12)
    torch.testing.assert_close(faster_norm(norm)(x), norm(x).detach())


def test_a_norm_of_another_kind_stays() -> None:
    class OddRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.eps = 1e-5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / x.abs().amax(dim=-1, keepdim=True) * self.weight

    outer = nn.ModuleDict({"norm": OddRMSNorm()})
    prepare(outer, [])
    assert isinstance(outer["norm"], OddRMSNorm)


def feed_forward(family: str, **settings: Any) -> nn.Module:
    """A family's layer with drawn weights, as the only part of a model."""
    torch.manual_seed(0)
    layer = part_of(family, f"{family.capitalize()}MLP", AutoConfig.for_model(FAMILIES[family], **SIZES, **settings))
    return nn.ModuleDict({"mlp": layer})


FAMILIES = {"llama": "llama", "gemma3": "gemma3_text", "qwen3": "qwen3", "phi3": "phi3"}


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_gated_layers(family: str, dtype: torch.dtype) -> None:
    outer = feed_forward(family).to(dtype)
    x = torch.randn(1, 5, 32).to(dtype)
    wanted = outer["mlp"](x).detach()
    names = {name for name, _ in outer.named_modules()}
    prepare(outer, []).set([BASE] * 5, [])
    assert isinstance(outer["mlp"], Gated)
    assert {name for name, _ in outer.named_modules()} == names, "adapters find parts by their names"
    assert apart(outer["mlp"](x), wanted) < APART[dtype]


@needs_kernels
def test_each_token_of_a_gated_layer_has_its_own_adapter() -> None:
    outer = feed_forward("llama")
    weights = {name: weight.detach().clone() for name, weight in outer.named_parameters()}
    low = {
        name: LowRank(torch.randn(2, weight.shape[1]), torch.randn(len(weight), 2))
        for name, weight in ((name.removesuffix(".weight"), weight) for name, weight in weights.items())
    }
    x = torch.randn(1, 3, 32)
    prepared = prepare(outer, [Changes({name: (change,) for name, change in low.items()})])
    prepared.set([0, BASE, 0], [])
    assert isinstance(outer["mlp"], Gated)
    found = outer["mlp"](x)[0]

    def linear(name: str, x_TK: torch.Tensor, *, adapted: bool) -> torch.Tensor:
        weight = weights[f"mlp.{name}.weight"]
        return x_TK @ (weight + adapted * low[f"mlp.{name}"].up_NR @ low[f"mlp.{name}"].down_RK).t()

    for row, adapted in enumerate((True, False, True)):
        gate, up = (linear(name, x[0, row], adapted=adapted) for name in ("gate_proj", "up_proj"))
        wanted = linear("down_proj", nn.functional.silu(gate) * up, adapted=adapted)
        torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{"hidden_act": "relu"}, {"intermediate_size": 40}], ids=str)
def test_another_activation_or_width_stays_with_the_models_own_code(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SIZES | settings)
    outer = nn.ModuleDict({"mlp": part_of("llama", "LlamaMLP", config)})
    x = torch.randn(1, 5, 32)
    wanted = outer["mlp"](x).detach()
    prepare(outer, []).set([BASE] * 5, [])
    assert not isinstance(outer["mlp"], Gated)
    torch.testing.assert_close(outer["mlp"](x), wanted)


def test_inputs_that_an_adapter_scales_apart_stay_apart() -> None:
    outer = feed_forward("llama")
    x = torch.randn(1, 2, 32)
    plain = outer["mlp"](x).detach()
    scale = Scale(input_K=torch.rand(32))
    prepare(outer, [Changes({"mlp.gate_proj": (scale,)})]).set([BASE, 0], [])
    assert not isinstance(outer["mlp"], Gated), "gate and up are two products then"
    found = outer["mlp"](x)
    torch.testing.assert_close(found[:, :1], plain[:, :1])
    assert apart(found[:, 1:], plain[:, 1:]) > 0.01
