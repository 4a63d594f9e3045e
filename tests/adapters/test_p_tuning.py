"""P-tuning: published counts, both networks, and a prompt as what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sartor.adapters import p_tuning
from sartor.adapters.p_tuning import Config


def test_published_counts(trained_by: Callable[..., int]) -> None:
    assert trained_by("p_tuning", tokens=20) == 28_382_208  # PEFT's benchmark, Llama-3.2-3B
    assert trained_by("p_tuning", tokens=20, encoder="lstm") > 0  # the formula holds for both
    assert trained_by("p_tuning", tokens=20, encoder="lstm", width=100) > 0


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_what_is_saved_is_what_the_network_gives(encoder: str, tiny_folder: Path, tmp_path: Path) -> None:
    config = Config(tokens=3, encoder=encoder)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model = p_tuning.attach(base, config)
    live = p_tuning.HOOKS.beginning(model, config).embeddings_PD
    assert live.requires_grad
    p_tuning.export(model, tmp_path)
    assert torch.equal(p_tuning.changes(base, tmp_path).beginning.embeddings_PD, live)


def test_the_lstm_of_the_paper_has_half_the_models_width_each_way(tiny_folder: Path) -> None:
    model = p_tuning.attach(AutoModelForCausalLM.from_pretrained(tiny_folder), Config(encoder="lstm"))
    assert model.prompt_encoder["default"].lstm_head.hidden_size == 16
