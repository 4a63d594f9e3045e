"""Checks that the families of adapters share: counts on the meta device, gradients against plain PEFT, changes."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from sartor.adapters import family_of
from sartor.artifact.updates import merged
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.hub import shape
from sartor.objectives import sft
from sartor.plan import Plan

MakePlan = Callable[..., Plan]

KINDS = (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, Gemma3TextConfig)
SIZES = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 8}
#: Llama-3.2-3B, for which PEFT publishes counts.
LLAMA_3B = {
    "vocab_size": 128_256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
IDS = torch.tensor([[1, 5, 9, 200, 300]])


def config_of(method: str, **settings: Any) -> Any:
    family = family_of(method)
    return family.Config(**{**family.PRESETS[method].settings, **settings})


def save_config(folder: Path, kind: type[Any] = LlamaConfig, **settings: Any) -> Path:
    """The configuration of three layers, with a token before and one after each text."""
    given = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    kind(**{**SIZES, **given, **settings}).save_pretrained(folder)
    return folder


def random_model(folder: Path, kind: type[Any] = LlamaConfig, **settings: Any) -> Any:
    """Such a model with weights that give logits worth comparing, saved in the folder too."""
    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(save_config(folder, kind, **settings))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():
        weight.data.mul_(4.0)
        if weight.data.dim() == 1:
            weight.data.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return load(folder)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def trainable(model: Any) -> Iterator[torch.nn.Parameter]:
    return (weight for weight in model.parameters() if weight.requires_grad)


def check_count(folder: Path, method: str, wanted: int | None = None, *, device: str = "meta", **settings: Any) -> None:
    """The formula gives what the model itself has, and what is published."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
        model = family_of(method).attach(model, config_of(method, **settings))
    counted = sum(weight.numel() for weight in trainable(model))
    assert family_of(method).count(shape(folder), config_of(method, **settings)) == counted
    assert wanted is None or counted == wanted


def check_counts(root: Path, method: str, *, device: str = "meta", **settings: Any) -> None:
    """Of every family of models, some with untied heads, with all biases and with their own."""
    for number, kind in enumerate(KINDS):
        folder = save_config(root / kind.__name__, kind, tie_word_embeddings=number % 2 == 0)
        check_count(folder, method, device=device, **settings)
    folder = save_config(root / "biased", attention_bias=True, mlp_bias=True)
    check_count(folder, method, device=device, **settings)


def wake(model: Any, scale: float = 0.05) -> Any:
    """As after training: every trainable number has moved."""
    torch.manual_seed(11)
    for weight in trainable(model):
        weight.data.add_(scale * torch.randn_like(weight))
    return model


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def check_changes(folder: Path, target: Path, method: str, **settings: Any) -> Any:
    """What the family says an adapter makes of the base gives what PEFT gives; the base stays as it is. The changes."""
    family, base = family_of(method), load(folder)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    wanting = {name: weight.requires_grad for name, weight in base.named_parameters()}
    model = wake(family.attach(copy.deepcopy(base), config_of(method, **settings)))
    expected = logits(model)
    assert not torch.allclose(expected, logits(base), rtol=1e-3, atol=1e-3)
    family.export(model, target)
    changes = family.changes(base, target)
    assert {name: weight.requires_grad for name, weight in base.named_parameters()} == wanting
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    torch.testing.assert_close(logits(merged(base, changes)), expected, rtol=1e-4, atol=1e-4)
    return changes


def make_segments(count: int = 6, vocab: int = 49_152) -> list[Segment]:
    """Random segments of different lengths; about half of their tokens are trained, never the first two."""
    draw = random.Random(11)
    made = []
    for number in range(count):
        ids = [1, *(draw.randrange(vocab) for _ in range(8 + 2 * number)), 2]
        weights = [0.0 if place < 2 else float(draw.random() < 0.6) for place in range(len(ids) - 1)]
        weights[-1] = 1.0
        made.append(
            Segment(row=f"row {number}", tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=tuple(weights))
        )
    return made


def check_gradients(folder: Path, target: Path, make_plan: MakePlan, method: str, **settings: Any) -> TorchBackend:
    """Packed gradients of the backend are those of one example at a time through plain PEFT in fp32."""
    family = family_of(method)
    settings = {**family.PRESETS[method].settings, **settings}
    backend = TorchBackend(
        make_plan(folder, adapter={"name": method, "settings": settings}, family=family.__name__.rpartition(".")[2])
    )
    wake(backend._model)
    backend._refresh()
    segments = make_segments(vocab=min(49_152, shape(folder).vocab))
    batches = pack(segments, micro_tokens=64)
    assert len(batches) < len(segments)
    weight = sum(sft.weight(batch) for batch in batches)
    for batch in batches:
        backend.forward_backward(batch, sft, sft.Config(), weight)
    found = {name: item.grad.double() for name, item in backend._updates.masters.items() if item.grad is not None}
    backend.export(target)
    wanted = plain_gradients(folder, target, segments, weight)
    assert found.keys() == wanted.keys() == backend._updates.masters.keys()
    errors = {name: float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted}
    assert max(errors.values()) < 1e-5, max(errors, key=errors.__getitem__)
    return backend


def plain_gradients(folder: Path, adapter: Path, segments: list[Segment], weight: float) -> dict[str, torch.Tensor]:
    """One example at a time through PEFT and stock attention, loss summed and divided once."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True).train()
    for item in segments:
        logits = model(input_ids=torch.tensor([item.tokens])).logits[0]
        losses = F.cross_entropy(logits, torch.tensor(item.targets), reduction="none")
        ((losses * torch.tensor(item.weights)).sum() / weight).backward()
    return {name: item.grad.double() for name, item in model.named_parameters() if item.grad is not None}
