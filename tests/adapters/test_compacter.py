"""Compacter: the published counts, its products against explicit ones, one rule for all layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, T5Config, T5ForConditionalGeneration

from sartor.adapters import compacter
from sartor.adapters.compacter import Config
from sartor.adapters.wrapping.compacter import Phm
from sartor.errors import RecipeError

T5_BASE = T5Config(vocab_size=32128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)


def small(width: int = 64) -> Any:
    config = LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1
    )
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("preset", "published"), [("compacter", 161_728), ("compacter_plus", 104_704)])
def test_the_published_counts_on_t5_base(preset: str, published: int) -> None:
    """Mahabadi et al. 2021, table 1: 0.073 % and 0.047 %, with all norms."""
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5_BASE)
    model = compacter.attach(model, Config(**compacter.PRESETS[preset].settings))
    assert sum(item.numel() for item in model.parameters() if item.requires_grad) == published


def test_a_layer_is_the_sum_of_its_products() -> None:
    torch.manual_seed(3)
    rules = torch.nn.ParameterDict({"default": torch.nn.Parameter(torch.randn(4, 4, 4))})
    layer = Phm(rules, "default", 12, 8, 2)
    torch.nn.init.normal_(layer.bias)
    whole = sum(torch.kron(rules["default"][i], layer.left[i] @ layer.right[i]) for i in range(4))
    x = torch.randn(5, 12)
    assert torch.allclose(layer(x), x @ whole + layer.bias, rtol=1e-5, atol=1e-5)
    assert [name for name, _ in layer.named_parameters()] == ["left", "right", "bias"]


def test_one_rule_serves_all_layers_and_is_saved_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = compacter.attach(small(), Config())
    rule = model.base_model.adapter_rule["default"]
    assert all(part._rules[0]["default"] is rule for part in model.modules() if isinstance(part, Phm))
    model(input_ids=torch.tensor([[3, 1, 4]])).logits.sum().backward()
    assert rule.grad is not None
    compacter.export(model, tmp_path)
    names = [name for name in load_file(tmp_path / "adapter_model.safetensors") if "rule" in name]
    assert names == ["base_model.adapter_rule"]


def test_the_width_is_a_32nd_rounded_up_to_what_the_terms_divide() -> None:
    assert [Config().size_at(width) for width in (32, 576, 768, 1024)] == [4, 20, 24, 32]
    assert Config(size=12).size_at(64) == 12


@pytest.mark.parametrize(("width", "settings", "named"), [(62, {}, "width, 62"), (64, {"size": 6}, "size`, 6")])
def test_sizes_that_the_terms_do_not_divide_are_refused(width: int, settings: dict[str, int], named: str) -> None:
    with pytest.raises(RecipeError, match=named) as caught:
        compacter.attach(small(width), Config(**settings))
    assert "divides both" in caught.value.hint
