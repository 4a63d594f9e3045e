"""Layers made ready: fewer products, all adapters at hand, and the same numbers."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from sartor.adapters.changes import Bottleneck, Change, Changes, LowRank, Scale, Shift, Weight
from sartor.errors import ModelError, Unsupported
from sartor.generate.batch import layers
from sartor.generate.batch.joint import Part
from sartor.generate.batch.layers import prepare
from sartor.generate.batch.runs import BASE


class Block(nn.Module):
    """What a decoder block has: layers that read the same input, and one that does not."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, out, bias=bias) for out in (24, 8, 8))
        self.down_proj = nn.Linear(24, 16, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.down_proj(self.q_proj(x) * 2) + self.k_proj(x).sum() + self.v_proj(x).mean()
        return made


def noise(*size: int, seed: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def low_rank(inputs: int, outputs: int, rank: int, seed: int) -> LowRank:
    return LowRank(noise(rank, inputs, seed=seed), noise(outputs, rank, seed=seed + 100))


LOW_RANKS: list[dict[str, Change]] = [
    {"q_proj": low_rank(16, 24, 3, 1), "down_proj": low_rank(24, 16, 2, 2)},
    {"q_proj": low_rank(16, 24, 4, 3), "k_proj": low_rank(16, 8, 1, 4)},
]
#: Adapters of every kind, each with changes of some layers of a group and of the one that stands alone.
KINDS: list[dict[str, Change]] = [
    *LOW_RANKS,
    {"v_proj": Weight(noise(8, 16, seed=5), noise(8, seed=6)), "down_proj": Weight(noise(16, 24, seed=7))},
    {"k_proj": Scale(output_N=noise(8, seed=8)), "down_proj": Scale(input_K=noise(24, seed=9))},
    {"q_proj": Shift(noise(24, seed=10)), "v_proj": Shift(noise(8, seed=11))},
    {
        "down_proj": Bottleneck(
            noise(3, 16, seed=12), noise(3, seed=13), noise(16, 3, seed=14), noise(16, seed=15), "relu", 0.5
        )
    },
]


def adapters_of(kinds: list[dict[str, Change]]) -> list[Changes]:
    return [Changes({name: (change,) for name, change in kind.items()}) for kind in kinds]


def reference(layer: nn.Linear, change: Change | None, x_TK: torch.Tensor) -> torch.Tensor:
    """By the definitions in `adapters/changes.py`, with nothing shared."""
    match change:
        case LowRank():
            return layer(x_TK) + x_TK @ change.down_RK.t() @ change.up_NR.t()
        case Weight():
            bias = layer.bias if change.bias_N is None else change.bias_N
            return nn.functional.linear(x_TK, change.weight, bias)
        case Scale():
            read = x_TK if change.input_K is None else x_TK * change.input_K
            return layer(read) if change.output_N is None else layer(read) * change.output_N
        case Shift():
            return layer(x_TK) + change.bias_N
        case Bottleneck():
            y = layer(x_TK)
            low = torch.relu(y @ change.down_MK.t() + change.down_bias_M)
            return y + change.scale * (low @ change.up_NM.t() + change.up_bias_N)
    return layer(x_TK)


@pytest.mark.parametrize("bias", [False, True])
def test_products_together_are_the_layers_apart(bias: bool) -> None:
    torch.manual_seed(0)
    block, x = Block(bias=bias), torch.randn(1, 5, 16)
    wanted = block(x).detach()
    choice = prepare(block, [])
    choice.set([BASE] * 5, [])
    assert isinstance(block.q_proj, Part) and not list(block.parameters())
    torch.testing.assert_close(block(x), wanted)
    torch.testing.assert_close(block(x * 2), block(x * 2))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "owners",
    [[0, BASE, 1, 0], [0, 0, 0, 1], list(range(6)), [5, 4, BASE, 3, 3, 2, 2, 1], [2, 2, 2], [BASE, 3]],
    ids=str,
)
def test_each_token_has_its_own_adapter(owners: list[int], bias: bool) -> None:
    torch.manual_seed(0)
    block = Block(bias=bias)
    layers: dict[str, Any] = {name: copy.deepcopy(layer) for name, layer in block.named_children()}
    choice = prepare(block, adapters_of(KINDS))
    choice.set(owners, [])
    for name, layer in layers.items():
        x = noise(1, len(owners), layer.in_features, seed=20)
        changes = [None if owner == BASE else KINDS[owner].get(name) for owner in owners]
        wanted = [reference(layer, change, row[None])[0] for change, row in zip(changes, x[0], strict=True)]
        torch.testing.assert_close(block.get_submodule(name)(x)[0], torch.stack(wanted))


def test_the_head_sees_wanted_tokens_alone() -> None:
    torch.manual_seed(0)
    outer = nn.ModuleDict({"lm_head": nn.Linear(16, 9, bias=False)})
    weight, change = outer["lm_head"].weight.detach().clone(), low_rank(16, 9, 2, 1)
    choice = prepare(outer, adapters_of([{"lm_head": change}]), head="lm_head")
    choice.set([BASE, BASE, 0, 0, BASE], [1, 3])
    x = torch.randn(1, 2, 16)
    wanted = x @ weight.t()
    wanted[0, 1] += x[0, 1] @ change.down_RK.t() @ change.up_NR.t()
    torch.testing.assert_close(outer["lm_head"](x), wanted)


def test_a_layer_that_sees_other_tokens_than_the_forward_has_is_refused() -> None:
    outer = nn.ModuleDict({"expert": nn.Linear(16, 9)})
    prepare(outer, adapters_of([{"expert": low_rank(16, 9, 2, 1)}])).set([0] * 5, [])
    with pytest.raises(Unsupported, match="sees 3 tokens of 5"):
        outer["expert"](torch.randn(1, 3, 16))


def test_one_rounding_in_bf16() -> None:
    """The sum of weight and delta is rounded once: nearer to fp32 than adding to a rounded output."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).bfloat16()
    outer = nn.ModuleDict({"o_proj": layer})
    small = LowRank(torch.randn(4, 64).bfloat16().float(), torch.randn(64, 4).bfloat16().float() * 0.01)
    x = torch.randn(1, 200, 64).bfloat16()
    exact = x.float() @ (layer.weight.float() + small.up_NR @ small.down_RK).t()
    twice = layer(x) + (x @ small.down_RK.bfloat16().t()) @ small.up_NR.bfloat16().t()
    choice = prepare(outer, adapters_of([{"o_proj": small}]))
    choice.set([0] * 200, [])
    ours = outer["o_proj"](x)
    assert (ours.float() - exact).norm() < 0.9 * (twice.float() - exact).norm()


def test_a_result_is_handed_out_once_and_let_go() -> None:
    block, x = Block(), torch.randn(1, 5, 16)
    prepare(block, []).set([BASE] * 5, [])
    block(x)
    part: Any = block.q_proj
    assert part.together._seen is None and part.together._made == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gate_proj": low_rank(16, 8, 2, 0)}, "changes gate_proj, which this model does not have"),
        (
            {"q_proj": low_rank(16, 8, 2, 0)},
            "q_proj as a layer of 16 inputs and 8 outputs, and this model's has 16 and 24",
        ),
        ({"down_proj": Weight(torch.zeros(16, 16))}, "down_proj as a layer of 16 inputs and 16 outputs"),
    ],
)
def test_an_adapter_of_another_model_is_refused(change: dict[str, Change], says: str) -> None:
    with pytest.raises(ModelError, match=says) as refused:
        prepare(Block(), adapters_of([change]))
    assert "another base model" in refused.value.hint


def test_weights_are_let_go_module_by_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the process would hold all of them twice."""
    model = nn.ModuleList([Block() for _ in range(3)])
    weights = [weakref.ref(weight) for block in model for weight in block.parameters()]
    alive: list[int] = []
    monkeypatch.setattr(layers, "return_freed_memory", lambda: alive.append(sum(ref() is not None for ref in weights)))
    prepare(model, [])
    assert alive == [8, 4, 0]
