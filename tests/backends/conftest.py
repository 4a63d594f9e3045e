"""What the tests of the backends share: segments, woken adapters, gradients of ours and of plain PEFT."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.objectives import sft
from sartor.plan import Plan

MakePlan = Callable[..., Plan]


def make_segments(count: int, *, longest: int = 30, vocab: int = 49152) -> list[Segment]:
    """Random segments of different lengths; about half of their tokens are trained, never the first two."""
    draw = random.Random(11)
    made = []
    for number in range(count):
        length = draw.randint(8, longest)
        ids = [draw.randrange(vocab) for _ in range(length + 1)]
        weights = [0.0 if place < 2 else float(draw.random() < 0.6) for place in range(length)]
        weights[-1] = 1.0
        made.append(
            Segment(row=f"row {number}", tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=tuple(weights))
        )
    return made


def wake_adapters(backend: TorchBackend, scale: float = 0.05) -> None:
    """Give B random values: at B = 0 half of the gradients vanish, and a wrong one would hide."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in backend._updates.masters.items():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    backend._refresh()


def our_gradients(backend: TorchBackend, segments: Sequence[Segment], **packing: Any) -> dict[str, torch.Tensor]:
    batches = pack(segments, **packing)
    weight = sum(sft.weight(batch) for batch in batches)
    for batch in batches:
        backend.forward_backward(batch, sft, sft.Config(), weight)
    return {name: item.grad.double() for name, item in backend._updates.masters.items() if item.grad is not None}


def plain_gradients(backend: TorchBackend, folder: Path, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
    """One example at a time through stock PEFT and stock attention in fp32, loss summed and divided once."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    rank = next(item.shape[0] for name, item in backend._updates.masters.items() if "lora_A" in name)
    model = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    model.train()
    parameters = {name: item for name, item in model.named_parameters() if item.requires_grad}
    with torch.no_grad():
        for name, item in backend._updates.masters.items():
            parameters[name].copy_(item)
    return summed_gradients(model, segments)


def summed_gradients(model: torch.nn.Module, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
    """Of all that is trained, one example at a time, loss summed and divided once."""
    weight = sum(sum(item.weights) for item in segments)
    for item in segments:
        logits = model(input_ids=torch.tensor([item.tokens])).logits[0]
        losses = F.cross_entropy(logits, torch.tensor(item.targets), reduction="none")
        ((losses * torch.tensor(item.weights)).sum() / weight).backward()
    return {name: item.grad.double() for name, item in model.named_parameters() if item.grad is not None}


def relative_error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


def distance(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Of the whole gradients, as a share of their length."""
    apart = torch.cat([(found[name].double() - wanted[name].double()).flatten() for name in wanted])
    return float(apart.norm() / torch.cat([item.double().flatten() for item in wanted.values()]).norm())


def cosine(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    a = torch.cat([found[name].flatten() for name in sorted(wanted)])
    b = torch.cat([wanted[name].flatten() for name in sorted(wanted)])
    return float(F.cosine_similarity(a, b, dim=0))
