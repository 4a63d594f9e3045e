"""GGUF files of a tiny model: what llama.cpp's own converters would write, in fp32, with SmolLM2's vocabulary."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFReader, GGUFWriter, TensorNameMap
from safetensors.numpy import load_file

from sartor.hub import EMBEDDED

ARCHITECTURE = "llama"


def embedded_gguf() -> Path:
    """The real model's file, in the package that carries it."""
    package, file = EMBEDDED["smollm2-135m-instruct"]
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / file


def write_model(folder: Path, file: Path, *, eos: int = 2, halves: Sequence[int] = ()) -> Path:
    """A Llama folder as a GGUF file in fp32.

    `eos` is the token at which llama.cpp would end an answer; `halves` get names that end inside a character.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(file, ARCHITECTURE)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    _add_vocabulary(writer, eos, halves)
    names = TensorNameMap(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        writer.add_tensor(_name(names, name), _permuted(name, tensor, config))
    return _written(writer, file)


def write_adapter(base: Path, adapter: Path, file: Path) -> Path:
    """A PEFT LoRA folder as a GGUF file in fp32."""
    config = json.loads((base / "config.json").read_text())
    writer = GGUFWriter(file, ARCHITECTURE)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"])
    names = TensorNameMap(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for key, tensor in load_file(adapter / "adapter_model.safetensors").items():
        name, _, part = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        # A maps from the inputs, which nothing permutes; B onto the outputs, which are those of the weight.
        laid = tensor if part == "lora_A" else _permuted(name, tensor, config)
        writer.add_tensor(f"{_name(names, f'{name}.weight')}.{part.lower()}", np.ascontiguousarray(laid))
    return _written(writer, file)


def _name(names: TensorNameMap, name: str) -> str:
    found = names.get_name(name, try_suffixes=(".weight",))
    assert found is not None, name
    return found


def _permuted(name: str, tensor: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs, transformers halves: rows of queries and keys change places."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for part, key in heads.items():
        if part in name:
            rows, columns = tensor.shape
            halves = tensor.reshape(config[key], 2, rows // config[key] // 2, columns)
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
    return tensor


@lru_cache
def _vocabulary() -> dict[str, Any]:
    """Read once: a list of 49,152 names takes seconds."""
    fields = GGUFReader(embedded_gguf()).fields
    return {part: fields[f"tokenizer.ggml.{part}"].contents() for part in ("pre", "tokens", "token_type", "merges")}


def _add_vocabulary(writer: GGUFWriter, eos: int, halves: Sequence[int]) -> None:
    vocabulary = _vocabulary()
    tokens = list(vocabulary["tokens"])
    for token in halves:
        tokens[token] = f"half{token}æ"  # in the alphabet of these names `æ` is the byte E6, which begins a character
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(tokens)
    writer.add_token_types(vocabulary["token_type"])
    writer.add_token_merges(vocabulary["merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(True)  # a trap: nothing of ours may be preceded by it


def _written(writer: GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
