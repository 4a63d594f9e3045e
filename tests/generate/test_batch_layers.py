"""Layers made ready: fewer products, all adapters at hand, and the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sartor.errors import ModelError
from sartor.generate.batch.adapters import Delta
from sartor.generate.batch.layers import BASE, Norm, Part, prepare


class Block(nn.Module):
    """What a decoder block has: layers that read the same input, and one that does not."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, out, bias=bias) for out in (24, 8, 8))
        self.down_proj = nn.Linear(24, 16, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.down_proj(self.q_proj(x) * 2) + self.k_proj(x).sum() + self.v_proj(x).mean()
        return made


def delta(inputs: int, outputs: int, rank: int, seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta(torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator))


DELTAS = [
    {"q_proj": delta(16, 24, 3, 1), "down_proj": delta(24, 16, 2, 2)},
    {"q_proj": delta(16, 24, 4, 3), "k_proj": delta(16, 8, 1, 4)},
]


@pytest.mark.parametrize("bias", [False, True])
def test_products_together_are_the_layers_apart(bias: bool) -> None:
    torch.manual_seed(0)
    block, x = Block(bias=bias), torch.randn(1, 5, 16)
    wanted = block(x).detach()
    choice = prepare(block, [])
    choice.set([BASE] * 5, torch.float32)
    assert isinstance(block.q_proj, Part) and not list(block.parameters())
    torch.testing.assert_close(block(x), wanted)
    torch.testing.assert_close(block(x * 2), block(x * 2))


def test_each_token_has_its_own_adapter() -> None:
    torch.manual_seed(0)
    block, x = Block(), torch.randn(1, 4, 16)
    adapters = [0, BASE, 1, 0]
    weights = {name: layer.weight.detach().clone() for name, layer in block.named_children()}
    wanted = []
    for token, adapter in enumerate(adapters):
        made = {}
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = weights[name].clone()
            if adapter != BASE and name in DELTAS[adapter]:
                weight += DELTAS[adapter][name].up_NR @ DELTAS[adapter][name].down_RK
            made[name] = x[0, token] @ weight.t()
        wanted.append(made)
    choice = prepare(block, DELTAS)
    choice.set(adapters, torch.float32)
    for name in ("q_proj", "k_proj", "v_proj"):
        found = block.get_submodule(name)(x)[0]
        torch.testing.assert_close(found, torch.stack([made[name] for made in wanted]))


def test_one_rounding_in_bf16() -> None:
    """The sum of weight and delta is rounded once: nearer to fp32 than adding to a rounded output."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).bfloat16()
    outer = nn.ModuleDict({"o_proj": layer})
    small = Delta(torch.randn(4, 64).bfloat16().float(), torch.randn(64, 4).bfloat16().float() * 0.01)
    x = torch.randn(1, 200, 64).bfloat16()
    exact = x.float() @ (layer.weight.float() + small.up_NR @ small.down_RK).t()
    twice = layer(x) + (x @ small.down_RK.bfloat16().t()) @ small.up_NR.bfloat16().t()
    choice = prepare(outer, [{"o_proj": small}])
    choice.set([0] * 200, torch.bfloat16)
    ours = outer["o_proj"](x)
    assert (ours.float() - exact).norm() < 0.9 * (twice.float() - exact).norm()


def test_a_result_is_handed_out_once_and_let_go() -> None:
    block, x = Block(), torch.randn(1, 5, 16)
    prepare(block, []).set([BASE] * 5, torch.float32)
    block(x)
    part: Any = block.q_proj
    assert part._together._seen is None and part._together._made == {}


def test_an_adapter_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="gate_proj"):
        prepare(Block(), [{"gate_proj": delta(16, 8, 2, 0)}])


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_norms_are_tried_on_numbers(family: str) -> None:
    import importlib

    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    kind = vars(module)[f"{family.capitalize()}RMSNorm"]
    norm = kind(16, eps=1e-5)
    nn.init.normal_(norm.weight, 0.5)
    x = torch.randn(3, 16)
    wanted = norm(x).detach()
    outer = nn.ModuleDict({"norm": norm})
    prepare(outer, [])
    assert isinstance(outer["norm"], Norm)
    torch.testing.assert_close(outer["norm"](x), wanted)


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
