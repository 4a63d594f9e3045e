"""LN tuning: all norms of every family, in fp32 over any base; counts, gradients, changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, Qwen3Config

from sartor.adapters import family_of, preset_of
from sartor.adapters.changes import Weight

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    IDS,
    LLAMA_3B,
    check_changes,
    check_count,
    check_counts,
    check_gradients,
    config_of,
    random_model,
    save_config,
    trainable,
)


def test_counts(tmp_path: Path, smollm2_folder: Path) -> None:
    check_counts(tmp_path, "ln_tuning")
    check_count(smollm2_folder, "ln_tuning", 61 * 576)


def test_the_published_counts(tmp_path: Path) -> None:
    check_count(save_config(tmp_path, **LLAMA_3B), "ln_tuning", 175_104)
    with torch.device("meta"):  # GPT-2 medium: gains and biases
        model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
        model = family_of("ln_tuning").attach(model, config_of("ln_tuning"))
    assert sum(weight.numel() for weight in trainable(model)) == 100_352


def test_the_rate_is_far_above_that_of_lora() -> None:
    """At LoRA's rate PEFT's own comparison has it learn nothing at all."""
    assert preset_of("ln_tuning").learning_rate >= 10


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_norms_are_trained_in_fp32_over_a_bf16_base(tmp_path: Path, kind: str) -> None:
    """What they give has the base's format, and moves by less than bf16 could."""
    if kind == "llama":
        random_model(tmp_path)
        base = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    else:
        base = AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_layer=2, n_head=4), dtype=torch.bfloat16)
    model = family_of("ln_tuning").attach(base, config_of("ln_tuning"))
    assert {weight.dtype for weight in trainable(model)} == {torch.float32}
    model(input_ids=IDS).logits.float().square().mean().backward()
    gradients = [weight.grad for weight in trainable(model)]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)
    norm = next(part for name, part in model.named_modules() if name.endswith("ln_tuning_layers.default"))
    assert norm(torch.randn(1, 3, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_gradients(tiny_folder: Path, tmp_path: Path, make_plan) -> None:
    check_gradients(tiny_folder, tmp_path, make_plan, "ln_tuning")


@pytest.mark.parametrize(("kind", "norms"), [(Qwen3Config, 4), (Gemma3TextConfig, 6)])
def test_changes_are_other_weights_of_all_norms(tmp_path: Path, kind, norms: int) -> None:
    random_model(tmp_path / "base", kind)
    changes = check_changes(tmp_path / "base", tmp_path / "adapter", "ln_tuning")
    assert len(changes.modules) == 3 * norms + 1
    assert all(isinstance(change, Weight) for each in changes.modules.values() for change in each)
