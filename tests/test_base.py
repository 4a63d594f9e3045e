"""Opening a base: what is quantised and what not, how much that saves, and that an engine gets what was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sartor.base import load_base, remainders
from sartor.errors import ModelError
from sartor.ops.quantised import Kind, PackedEight, PackedFour
from sartor.ops.quantised_linear import QuantisedEmbedding, QuantisedLinear

IDS = torch.tensor([[1, 5, 9, 60, 33]])
SIZES = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def saved(folder: Path, model: Any, dtype: torch.dtype = torch.float32) -> Path:
    model.to(dtype).save_pretrained(folder)
    return folder


def llama(folder: Path, *, tied: bool = True, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(5)
    config = LlamaConfig(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, attention_bias=True
    )
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    return saved(folder, model, dtype)


def opened(folder: Path, kind: Kind = "nf4", *, packed: bool, dtype: torch.dtype = torch.float32) -> Any:
    return load_base(folder, dtype, kind, attention="eager", packed=packed).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_packed_weights_answer_as_the_numbers_that_an_engine_gets(
    tmp_path: Path, kind: Kind, dtype: torch.dtype, tied: bool
) -> None:
    folder = llama(tmp_path / "base", tied=tied, dtype=torch.bfloat16)
    packed, numbers = (opened(folder, kind, packed=packed, dtype=dtype) for packed in (True, False))
    assert logits(packed).dtype == dtype
    assert torch.equal(logits(packed), logits(numbers))
    weights = dict(numbers.named_parameters())
    for name, layer in packed.named_modules():
        if isinstance(layer, QuantisedLinear | QuantisedEmbedding) and f"{name}.weight" in weights:
            assert torch.equal(layer.weight, weights[f"{name}.weight"])
    assert not any(weight.requires_grad for weight in packed.parameters())
    assert {weight.dtype for weight in (*packed.parameters(), *numbers.parameters())} == {dtype}


def test_what_is_quantised(tmp_path: Path) -> None:
    model = opened(llama(tmp_path / "base"), packed=True)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, QuantisedEmbedding)
    assert embedding.packed is head.packed  # tied: held once
    assert isinstance(head.packed, PackedEight)
    inner = [layer for layer in model.model.layers.modules() if isinstance(layer, nn.Linear)]
    assert len(inner) == 14
    assert all(isinstance(layer.packed, PackedFour) for layer in inner)
    assert inner[0].bias is not None
    assert {name.rpartition(".")[2] for name, _ in model.named_parameters()} <= {"weight", "bias"}
    assert len({id(layer.room) for layer in (*inner, head)}) == 1


def test_untied_ends_are_held_twice(tmp_path: Path) -> None:
    model = opened(llama(tmp_path / "base", tied=False), packed=True)
    assert model.get_input_embeddings().packed is not model.get_output_embeddings().packed


def test_it_is_the_checkpoint_that_is_quantised_and_not_its_rounding(tmp_path: Path) -> None:
    folder = llama(tmp_path / "base")
    exact, rounded = (opened(folder, packed=True, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(exact.buffers(), rounded.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_scaled_embedding(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = Gemma3TextConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    folder = saved(tmp_path / "gemma", Gemma3ForCausalLM(config))
    assert torch.equal(*(logits(opened(folder, packed=packed)) for packed in (True, False)))


def test_remainders_are_what_four_bits_lost(tmp_path: Path) -> None:
    folder = llama(tmp_path / "base")
    whole = load_base(folder, torch.float32, "none", attention="eager")
    model = opened(folder, packed=True)
    found = dict(remainders(model))
    assert len(found) == 14
    for name, lost_NK in found.items():
        assert torch.allclose(model.get_submodule(name).weight + lost_NK, whole.get_submodule(name).weight, atol=1e-7)
        assert lost_NK.any()


def test_a_real_base_is_a_third(smollm2_folder: Path) -> None:
    """SmolLM2-135M: 54.8 MB in four bits, 29.2 MB of embedding in eight, and norms; and the buffer of one layer."""
    model = load_base(smollm2_folder, torch.bfloat16, "nf4", attention="eager", packed=True)
    held = sum(item.nbytes for item in (*model.parameters(), *model.buffers()))
    logits(model)
    buffer = model.get_output_embeddings().room.num_bytes
    assert 0.30 < held / (2 * 134_515_008) < 0.32
    assert (held + buffer) / (2 * 134_515_008) < 0.35


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4)
    folder = saved(tmp_path / "gpt2", GPT2LMHeadModel(config))
    with pytest.raises(ModelError, match="cannot be quantised"):
        opened(folder, packed=True)


@pytest.mark.parametrize(
    ("stored", "asked", "message"),
    [
        ("gptq", "gptq", "optimum and gptqmodel"),
        ("awq", "nf4", "holds awq weights, and `model.quantize` is nf4"),
        ("aqlm", "none", "of the kind 'aqlm'"),
    ],
)
def test_quantised_checkpoints(tmp_path: Path, stored: str, asked: Any, message: str) -> None:
    folder = llama(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": stored}}))
    with pytest.raises(ModelError, match=message) as refusal:
        load_base(folder, torch.float32, asked, attention="eager")
    assert "made from" in refusal.value.hint


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"model_type": "t5"}, "no language model for 't5'"),
        ({"model_type": "vit"}, "no language model for 'vit'"),
        ({"model_type": "no_such_type"}, "does not know this model"),
        ({}, "does not know this model"),
    ],
)
def test_a_folder_that_holds_no_language_model(tmp_path: Path, written: dict[str, Any], words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ModelError, match=words) as caught:
        load_base(tmp_path, torch.float32, "none", attention="eager")
    assert "Llama" in caught.value.hint
