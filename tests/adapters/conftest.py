"""Models without weights, for counts that were published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig

from sartor.adapters import family_of, preset_of
from sartor.hub import shape

LLAMA_3B = LlamaConfig(
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
GPT2_MEDIUM = GPT2Config(n_embd=1024, n_layer=24, n_head=16)


@pytest.fixture
def trained_by(tmp_path: Path) -> Callable[..., int]:
    """How many parameters a method trains of Llama-3.2-3B: counted on the model, and by the formula, if they agree."""

    def count(method: str, **settings: Any) -> int:
        LLAMA_3B.save_pretrained(tmp_path)
        family = family_of(method)
        config = family.Config(**{**preset_of(method).settings, **settings})
        found = on_meta(AutoConfig.from_pretrained(tmp_path), method, config)
        assert found == family.count(shape(tmp_path), config)
        return found

    return count


@pytest.fixture
def trained_of_gpt2_medium() -> Callable[..., int]:
    """The same of GPT-2 medium, on the model alone."""

    def count(method: str, **settings: Any) -> int:
        config = family_of(method).Config(**{**preset_of(method).settings, **settings})
        return on_meta(GPT2_MEDIUM, method, config)

    return count


def on_meta(model_config: Any, method: str, config: Any) -> int:
    with torch.device("meta"):
        model = family_of(method).attach(AutoModelForCausalLM.from_config(model_config), config)
    return sum(item.numel() for item in model.parameters() if item.requires_grad)
