"""Merging for the engine: only the layers that an adapter stands at are copied, and PEFT never reaches the base."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from sartor.adapters import family_of
from sartor.adapters.merging import merged_changes
from sartor.artifact.updates import merged
from sartor.base import quantise

from ..adapting import config_of, load, logits, random_model, trainable, wake  # noqa: TID252


def test_layers_that_no_adapter_stands_at_are_those_of_the_base(tmp_path: Path) -> None:
    """Even for a start at which PEFT moves the base's weights in their place."""
    base = random_model(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="olora", task_type="CAUSAL_LM")
    model = wake(get_peft_model(load(tmp_path / "base"), config))
    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    before = {name: (weight.data_ptr(), weight.clone(), weight.requires_grad) for name, weight in named(base)}
    changes = merged_changes(base, tmp_path / "adapter")
    for name, weight in named(base):
        place, value, wanted = before[name]
        assert weight.data_ptr() == place
        assert torch.equal(weight, value)
        assert weight.requires_grad == wanted
    assert changes.modules.keys() == {f"model.layers.{number}.self_attn.q_proj" for number in range(3)}
    for name, each in changes.modules.items():
        base.get_submodule(name).weight.data = each[0].weight
    torch.testing.assert_close(logits(base), expected, rtol=1e-4, atol=1e-4)


def test_a_quantised_layer_is_merged_as_the_weight_that_it_computes_with(tmp_path: Path) -> None:
    """PEFT would add the update to a copy of it, and lose it. Beside LoKr, methods that say their change themselves."""
    for method in ("lokr", "oft", "ia3", "ln_tuning", "bitfit"):
        folder, target = tmp_path / method, tmp_path / f"{method}-adapter"
        random_model(folder, hidden_size=64)
        base = load(folder)
        quantise(base, "nf4", torch.float32)
        plain = logits(base)
        model = family_of(method).attach(copy.deepcopy(base), config_of(method))
        torch.testing.assert_close(logits(model), plain)
        expected = logits(wake(model))
        family_of(method).export(model, target)
        changes = family_of(method).changes(base, target)
        torch.testing.assert_close(logits(base), plain)
        dequantised = load(folder)
        quantise(dequantised, "nf4", torch.float32, packed=False)
        torch.testing.assert_close(logits(merged(dequantised, changes)), expected, rtol=1e-4, atol=1e-4)


def named(model):
    return list(model.named_parameters())


def test_trainable_parts_beside_the_layers_are_found(tmp_path: Path) -> None:
    """`modules_to_save` are whole modules."""
    base = random_model(tmp_path / "base", tie_word_embeddings=False)
    config = LoraConfig(r=2, target_modules=["v_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = wake(get_peft_model(load(tmp_path / "base"), config))
    assert any("lm_head" in name for name, weight in model.named_parameters() if weight.requires_grad)
    assert list(trainable(model))
    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    changes = merged_changes(base, tmp_path / "adapter")
    assert "lm_head" in changes.modules
    for name, each in changes.modules.items():
        base.get_submodule(name).weight.data = each[0].weight
    torch.testing.assert_close(logits(base), expected, rtol=1e-4, atol=1e-4)
