"""Modules that are no linear layers: norms and embeddings with other weights, sublayers with something added."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sartor.adapters.changes import Changes, Scale, Shift, Weight
from sartor.errors import ModelError
from sartor.generate.batch.faster import Norm
from sartor.generate.batch.layers import prepare
from sartor.generate.batch.runs import BASE


class LittleRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5)
        self.eps = 1e-5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (8,), self.weight, self.eps)


class Attention(nn.Module):
    """Called by name, and gives more than its output, as transformers' attention does."""

    def forward(self, *, hidden_states: torch.Tensor, scale: float) -> tuple[torch.Tensor, str]:
        return hidden_states * scale, "weights"


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.attention = nn.Embedding(10, 8), LittleRMSNorm(), Attention()

    def forward(self, ids: torch.Tensor) -> Any:
        return self.attention(hidden_states=self.norm(self.embed(ids)), scale=2.0)


def test_each_token_goes_through_what_its_adapter_makes_of_the_modules() -> None:
    torch.manual_seed(0)
    model, ids = Model(), torch.tensor([[1, 2, 3, 4, 5]])
    table, gain, shift = torch.randn(10, 8), torch.rand(8), torch.randn(8)
    norm = torch.nn.functional.rms_norm
    base = norm(model.embed(ids), (8,), model.norm.weight, 1e-5) * 2
    other_table = norm(nn.functional.embedding(ids, table), (8,), model.norm.weight, 1e-5) * 2
    other_norm = norm(model.embed(ids), (8,), gain, 1e-5) * 2 + shift
    adapters = [
        Changes({"embed": (Weight(table),)}),
        Changes({"norm": (Weight(gain),), "attention": (Shift(shift),)}),
    ]
    choice = prepare(model, adapters)
    assert isinstance(model.norm, Norm)
    for owners in ([BASE] * 5, [BASE, 0, 0, 1, 1], [1] * 5):
        choice.set(owners, [])
        made, weights = model(ids)
        kinds = {BASE: base, 0: other_table, 1: other_norm}
        wanted = torch.stack([kinds[owner][0, place] for place, owner in enumerate(owners)])
        torch.testing.assert_close(made[0], wanted)
        assert weights == "weights"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"norm": (Weight(torch.ones(9)),)}, "another weight for norm"),
        ({"attention": (Weight(torch.ones(8)),)}, "another weight for attention"),
        ({"norm": (Scale(input_K=torch.ones(8)),)}, "scales what norm reads"),
    ],
)
def test_what_the_module_cannot_have_is_refused(change: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says) as refused:
        prepare(Model(), [Changes(change)])
    assert refused.value.hint
