"""Open a base model: its weights held as the plan says, or as the numbers that such weights stand for.

What is quantised: every linear layer of the decoder, in the kind that was asked for, and embedding and head, in eight
bits. These are a fifth to a half of a small model, and four bits would be seen in every token. Norms and biases stay.
The numbers are those of the checkpoint, before any rounding to the type of the products: so every machine gets the same
codes, and an engine answers with what was trained on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from sartor.errors import ModelError
from sartor.hub import STORED, stored_quantisation
from sartor.ops.quantised import Kind, Packed, pack
from sartor.ops.quantised_linear import QuantisedEmbedding, QuantisedLinear
from sartor.ops.workspace import Buffers
from sartor.plan import Quantized

#: Of the parameters, the most that may be in layers which cannot be quantised.
MOST_LEFT = 0.2
#: Of an embedding's numbers, the most by which eight bits may change them; that of a normal distribution is 0.006.
TOLERANCE = 0.02
#: Rows of a head that are made at once: as many as fit where gate and up of a layer do together, but no fewer.
SMALLEST_TILE = 1024
FAMILIES = "choose a model of the Llama, Qwen, Gemma, SmolLM or Mistral families"
OTHERWISE = f"leave `model.quantize` out, or {FAMILIES}"
OURS: tuple[Kind, ...] = ("nf4", "fp4", "int8")


def load_base(
    folder: Path | str, dtype: torch.dtype, quantize: Quantized, *, attention: str = "", packed: bool = False
) -> Any:
    """A causal language model that computes in `dtype`.

    Args:
        folder: in Hugging Face layout.
        dtype: of the products.
        quantize: how the weights are held; "gptq" and "awq" are the checkpoint's own.
        attention: the name of the attention that transformers is to use; left out, `plain_attention`.
        packed: hold them so, for training; else the numbers that they stand for, in plain layers.

    Raises:
        ModelError: the model cannot be quantised so, or its own quantisation is not for this machine.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    require_stored(Path(folder), quantize)
    kind = next((kind for kind in OURS if kind == quantize), None)
    model = _load(folder, dtype if kind is None else "auto", attention or "eager")
    if not attention:
        model.set_attn_implementation(plain_attention(model))
    if kind is not None:
        quantise(model, kind, dtype, packed=packed)
    return model


def plain_attention(model: Any) -> str:
    """Of transformers' own attentions one that is right for rows by themselves, whatever the model does to scores."""
    return "sdpa" if model._supports_sdpa else "eager"


def require_stored(folder: Path, quantize: Quantized) -> None:
    """Refuse a checkpoint of quantised weights where another kind was decided, or where nothing computes with them.

    Raises:
        ModelError: so it is.
    """
    stored = stored_quantisation(folder)
    if stored and stored != quantize:
        raise ModelError(
            f"{folder.name} holds {stored} weights, and `model.quantize` is {quantize}",
            hint="leave `model.quantize` out, or name the model that they were made from",
        )
    missing = [package for package in STORED.get(stored, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(
            f"{folder.name} holds {stored} weights, and {' and '.join(missing)}, which computes with them, is not here",
            hint=f"pip install {' '.join(missing)}, or name the model that they were made from, with `quantize: nf4`",
        )


@torch.no_grad()
def quantise(model: Any, kind: Kind, dtype: torch.dtype, *, packed: bool = True) -> None:
    """Quantise a loaded model in place, one matrix after the other: the weight that it had is let go at once.

    Args:
        model: with the weights of its checkpoint; it computes in `dtype` from now on.
        kind: of the linear layers; embedding and head have eight bits.
        packed: put layers with packed weights in their place; else plain weights, equal to theirs.

    Raises:
        ModelError: too many of its weights are in no layer that can be quantised.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    places = list(_quantisable(model, ends))
    largest, room = _largest(model, places, ends), Buffers(0)
    done: dict[int, Packed] = {}
    for place in places:
        (parent, name), layer = place, _layer(place)
        source = layer.weight
        made = done.get(id(source)) or pack(source, "int8" if layer in ends else kind)
        if layer in ends:  # tied in many models, and then packed once
            done[id(source)] = made
        if not packed:
            source.data = made.whole(dtype)
        elif isinstance(layer, nn.Linear):
            tile = max(SMALLEST_TILE, 2 * largest // layer.in_features) if layer in ends else 0
            parent.register_module(name, QuantisedLinear(made, layer.bias, dtype, room, tile))
        else:
            parent.register_module(name, _embedding(layer, made, dtype))
    for weight in model.parameters():
        weight.data = weight.detach().to(dtype, copy=True)  # out of the mapped file, which is given back as a whole
        weight.requires_grad_(False)
    model.config.dtype = dtype


def remainders(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What four bits lost: for each packed linear layer of the decoder its name, and W - Q(W) in fp32, one at a time.

    The checkpoint is opened again for it, where the model came from.
    """
    original = dict(_load(model.config.name_or_path, "auto", "eager").named_modules())
    head = model.get_output_embeddings()
    for name, layer in model.named_modules():
        if isinstance(layer, QuantisedLinear) and layer is not head:
            yield name, original[name].weight.detach().float() - layer.packed.whole(torch.float32)


def _load(folder: Path | str, dtype: torch.dtype | str, attention: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: transformers does not know this model: {error}", hint=FAMILIES) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{folder}: transformers has no language model for {config.model_type!r}", hint=FAMILIES)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, local_files_only=True, trust_remote_code=False
    )


def _quantisable(model: Any, ends: tuple[nn.Module, ...]) -> Iterator[tuple[nn.Module, str]]:
    """Parent and name of each layer that is quantised."""
    for parent in model.modules():
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear or (layer in ends and isinstance(layer, nn.Embedding)):
                yield parent, name


def _largest(model: Any, places: Sequence[tuple[nn.Module, str]], ends: tuple[nn.Module, ...]) -> int:
    """Numbers of the largest weight of the decoder.

    Raises:
        ModelError: too many of the model's weights are in no layer that can be quantised.
    """
    weights = {id(_layer(place).weight): _layer(place).weight.numel() for place in places}
    total = sum(weight.numel() for weight in model.parameters())
    left = 1 - sum(weights.values()) / total
    inner = [_layer(place).weight.numel() for place in places if _layer(place) not in ends]
    if left > MOST_LEFT or not inner:
        raise ModelError(
            f"{left:.0%} of this model's weights are in no linear layer, and cannot be quantised", hint=OTHERWISE
        )
    return int(max(inner))


def _layer(place: tuple[nn.Module, str]) -> Any:
    """Looked up each time: a list of layers would keep the weights of those that were replaced."""
    return place[0].get_submodule(place[1])


def _embedding(layer: Any, made: Packed, dtype: torch.dtype) -> QuantisedEmbedding:
    """The twin of an embedding, with the scale that Gemma's has.

    Raises:
        ModelError: this one does something else.
    """
    twin = QuantisedEmbedding(made, dtype, dict(layer.named_buffers()).get("embed_scale"))
    ids = torch.arange(min(8, made.shape[0]))
    wanted, found = layer(ids).float(), twin(ids).float()
    if (found - wanted).norm() > TOLERANCE * wanted.norm():
        raise ModelError(
            f"the embedding of this model, a {type(layer).__name__}, does more than look rows up",
            hint=OTHERWISE,
        )
    return twin
