"""A small decoder, methods beside it that say something, and their gradients: by the backend, and plain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sartor.adapters import family_of
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.objectives import sft

BESIDE = ("attention_fusion", "lst", "lets")
VOCAB = 256


def save_backbone(folder: Path, **sizes: Any) -> Path:
    """A random Llama of 3 layers in fp32."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": None,
    }
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **sizes}))
    for parameter in model.parameters():
        parameter.data.mul_(4.0)  # as in `tiny_folder`: else logits are almost flat
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def attached(folder: Path, method: str, **settings: Any) -> Any:
    """A new adapter on a fresh base."""
    family = family_of(method)
    torch.manual_seed(7)
    return family.attach(load(folder), family.Config(**settings)).eval()


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: item for name, item in model.named_parameters() if item.requires_grad}


def moved(model: Any, scale: float = 0.1) -> Any:
    """The model, every trainable number of which has moved, as after training."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for item in trainable(model).values():
            item.add_(scale * torch.randn(item.shape, generator=draw))
    return model


def segments(*, longest: int = 24) -> list[Segment]:
    """Of different lengths; two begin alike. No first token is trained."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(VOCAB, (length + 1,), generator=draw).tolist() for length in (9, longest, 5, longest)]
    rows[3][:8] = rows[1][:8]
    return [
        Segment(f"row {number}", tuple(row[:-1]), tuple(row[1:]), (0.0, *[1.0] * (len(row) - 2)))
        for number, row in enumerate(rows)
    ]


def packed_gradients(backend: TorchBackend, rows: Sequence[Segment]) -> dict[str, torch.Tensor]:
    batches = pack(rows, micro_tokens=10**6)
    weight = sum(sft.weight(batch) for batch in batches)
    for batch in batches:
        backend.forward_backward(batch, sft, sft.Config(), weight)
    return {name: item.grad.double() for name, item in backend._updates.masters.items() if item.grad is not None}


def plain_gradients(model: Any, rows: Sequence[Segment]) -> dict[str, torch.Tensor]:
    """One row at a time through transformers' own layers; the loss summed, and divided once."""
    weight = sum(sum(row.weights) for row in rows)
    for row in rows:
        logits = model(input_ids=torch.tensor([row.tokens])).logits[0]
        losses = F.cross_entropy(logits, torch.tensor(row.targets), reduction="none")
        ((losses * torch.tensor(row.weights)).sum() / weight).backward()
    assert all(item.grad is None for item in model.parameters() if not item.requires_grad)
    return {name: item.grad.double() for name, item in trainable(model).items() if item.grad is not None}


def saved_bytes(model: Any, ids: torch.Tensor) -> int:
    """What a training forward keeps for its backward, beside parameters."""
    parameters = {item.data_ptr() for item in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train().get_base_model().base_model(input_ids=ids, use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(kept.values())
