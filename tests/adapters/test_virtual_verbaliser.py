"""WARP in PEFT's own hands: loading, several adapters in one model, and a canary for what we rely on in PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sartor.adapters import warp
from sartor.adapters.virtual.verbaliser import TASK, VerbalisedHead, WarpForCausalLM

IDS = torch.tensor([[1, 5, 9, 200]])
CONFIG = warp.Config(tokens=3, verbalisers=4)


def saved(folder: Path, base: Path, seed: int) -> tuple[Path, torch.Tensor]:
    model = warp.attach(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), CONFIG)
    draw = torch.Generator().manual_seed(seed)
    for item in model.parameters():
        if item.requires_grad:
            item.data.add_(0.1 * torch.randn(item.shape, generator=draw))
    warp.export(model, folder)
    return folder, logits(model)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_two_adapters_in_one_model(tiny_folder: Path, tmp_path: Path) -> None:
    (first, of_first), (second, of_second) = (saved(tmp_path / str(seed), tiny_folder, seed) for seed in (1, 2))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(first), adapter_name="first")
    model.load_adapter(str(second), adapter_name="second")
    assert torch.equal(logits(model), of_first)
    model.set_adapter("second")
    assert torch.equal(logits(model), of_second)


def test_peft_still_finds_the_class_by_the_task(tiny_folder: Path) -> None:
    model = warp.attach(AutoModelForCausalLM.from_pretrained(tiny_folder), CONFIG)
    assert type(model) is WarpForCausalLM
    assert model.peft_config["default"].task_type == TASK
    assert isinstance(model.get_base_model().get_output_embeddings(), VerbalisedHead)
