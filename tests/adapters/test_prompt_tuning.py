"""Prompt tuning and intrinsic prompts: published counts, and one kind of adapter from both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sartor.adapters import prompt_tuning
from sartor.adapters.prompt_tuning import Config
from sartor.errors import RecipeError
from sartor.hub import Shape


def test_published_counts(trained_by: Callable[..., int]) -> None:
    assert trained_by("prompt_tuning", tokens=200) == 614_400  # PEFT's benchmark, Llama-3.2-3B
    base = Shape(num_layers=12, hidden=768, inner=3072, num_heads=12, num_kv_heads=12, head_dim=64, vocab=32128,
                 tied=True, context=512)  # fmt: skip
    assert prompt_tuning.count(base, Config(tokens=100)) == 76_800  # T5-base


def test_only_the_coordinates_of_an_intrinsic_prompt_train(trained_by: Callable[..., int]) -> None:
    assert trained_by("ipt", tokens=2, dimensions=5) == 5
    assert trained_by("ipt", tokens=20) == 2000


def test_a_prompt_of_fewer_numbers_than_the_usual_has_all_of_them() -> None:
    assert Config(tokens=2, intrinsic=True).num_dimensions(32) == 64


def test_virtual_tokens_begin_as_words(tiny_folder: Path) -> None:
    model = prompt_tuning.attach(AutoModelForCausalLM.from_pretrained(tiny_folder), Config(tokens=3))
    found = prompt_tuning.HOOKS.beginning(model, Config(tokens=3)).embeddings_PD
    words = model.get_base_model().get_input_embeddings().weight
    assert all((words == row).all(dim=1).any() for row in found)


@pytest.mark.parametrize("intrinsic", [False, True])
def test_what_is_saved_is_a_prompt(intrinsic: bool, tiny_folder: Path, tmp_path: Path) -> None:
    config = Config(tokens=3, intrinsic=intrinsic, dimensions=2)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model = prompt_tuning.attach(base, config)
    for item in model.parameters():
        item.data.add_(0.1 * item.requires_grad)
    prompt_tuning.export(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "PROMPT_TUNING"
    saved = prompt_tuning.changes(base, tmp_path)
    assert torch.equal(saved.beginning.embeddings_PD, prompt_tuning.HOOKS.beginning(model, config).embeddings_PD)
    assert (saved.modules, saved.alone) == ({}, "")


def test_more_dimensions_than_numbers_are_refused(tiny_folder: Path) -> None:
    config = Config(tokens=1, intrinsic=True, dimensions=33)
    with pytest.raises(RecipeError, match="is 33, and a prompt has 32 numbers"):
        prompt_tuning.attach(AutoModelForCausalLM.from_pretrained(tiny_folder), config)
