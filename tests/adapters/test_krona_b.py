"""KronA^B: its product against the whole matrix, its residual, its factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from sartor.adapters import krona_b
from sartor.adapters.krona_b import Config
from sartor.adapters.wrapping.krona_b import Kron, KronaConfig
from sartor.errors import RecipeError


def small() -> Any:
    config = LlamaConfig(
        vocab_size=64, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=1
    )
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("factor", [1, 4, 6, 24])
def test_it_is_the_product_with_the_whole_matrix_and_holds_twice_the_width(factor: int) -> None:
    torch.manual_seed(3)
    layer = Kron(KronaConfig(factor=factor, scale=0.5, residual=True), 24)
    assert layer.left.numel() + layer.right.numel() == 48
    torch.nn.init.normal_(layer.right)
    torch.nn.init.constant_(layer.residual, 0.3)
    x = torch.randn(5, 24)
    whole = torch.kron(layer.left, layer.right)
    assert torch.allclose(layer(x), 0.5 * x @ whole.t() + 0.3 * x, rtol=1e-5, atol=1e-5)


def test_the_factor_is_the_divisor_next_to_the_root() -> None:
    assert [Config().factor_at(width) for width in (24, 576, 768, 7)] == [4, 24, 24, 1]


def test_a_factor_that_does_not_divide_the_width_is_refused() -> None:
    with pytest.raises(RecipeError, match="is 5, and does not divide the model's width, 24"):
        krona_b.attach(small(), Config(factor=5))


def test_it_stands_beside_the_whole_feed_forward_layer() -> None:
    model = krona_b.attach(small(), Config())
    names = {name.partition(".adapter_")[0] for name, item in model.named_parameters() if item.requires_grad}
    assert names == {f"base_model.model.model.layers.{number}.mlp" for number in range(2)}
