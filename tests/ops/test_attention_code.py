"""Attention layers whose code does something that numbers of a few tokens do not show."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from sartor.ops.attention_code import strange_names

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "num_hidden_layers": 1}


def layer_of(family: str, kind: str, **settings: object) -> nn.Module:
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    config = AutoConfig.for_model({"gemma3": "gemma3_text"}.get(family, family), **{**SIZES, **settings})
    with torch.device("meta"):
        made: nn.Module = vars(module)[f"{kind}Attention"](config, layer_idx=0)
    return made


@pytest.mark.parametrize(
    "kind", ["Llama", "Qwen2", "Qwen3", "Mistral", "Mixtral", "Phi3", "Gemma", "Gemma2", "Gemma3", "SmolLM3", "Granite"]
)
def test_known_families_name_nothing_strange(kind: str) -> None:
    assert strange_names(layer_of(kind.lower(), kind)) == []


def test_a_clip_and_a_scale_by_position_are_named() -> None:
    assert "clip_qkv" in strange_names(layer_of("olmo", "Olmo"))
    assert "get_llama_4_attn_scale" in strange_names(layer_of("ministral3", "Ministral3"))
