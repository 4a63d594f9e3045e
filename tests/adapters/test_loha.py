"""LoHa: the definition, its gradients, counts, and what the engine makes of it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Gemma3TextConfig

from sartor.adapters import family_of
from sartor.adapters.changes import Weight

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    LLAMA_3B,
    check_changes,
    check_count,
    check_counts,
    check_gradients,
    config_of,
    load,
    random_model,
    save_config,
    wake,
)


def test_counts(tmp_path: Path, smollm2_folder: Path) -> None:
    check_counts(tmp_path, "loha")
    check_count(smollm2_folder, "loha")
    check_count(save_config(tmp_path, **LLAMA_3B), "loha", 18_350_080, r=32, targets=("q_proj", "v_proj"))


def test_the_update_is_the_product_of_two_low_ranks(tiny_folder: Path) -> None:
    """With its gradient, which PEFT writes by hand."""
    model = wake(family_of("loha").attach(load(tiny_folder), config_of("loha", r=3, alpha=6)))
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    parts = [layer.hada_w1_a, layer.hada_w1_b, layer.hada_w2_a, layer.hada_w2_b]
    a1, b1, a2, b2 = (part["default"] for part in parts)
    found, wanted = layer.get_delta_weight("default"), 2.0 * (a1 @ b1) * (a2 @ b2)
    torch.testing.assert_close(found, wanted)
    direction = torch.randn_like(wanted)
    ours = torch.autograd.grad((found * direction).sum(), [a1, b1, a2, b2])
    plain = torch.autograd.grad((wanted * direction).sum(), [a1, b1, a2, b2])
    torch.testing.assert_close(ours, plain)


def test_gradients(tiny_folder: Path, tmp_path: Path, make_plan) -> None:
    check_gradients(tiny_folder, tmp_path, make_plan, "loha")


def test_changes(tiny_folder: Path, tmp_path: Path) -> None:
    changes = check_changes(tiny_folder, tmp_path, "loha")
    assert len(changes.modules) == 14
    assert all(isinstance(change, Weight) for each in changes.modules.values() for change in each)


def test_changes_of_a_model_of_another_family(tmp_path: Path) -> None:
    random_model(tmp_path / "base", Gemma3TextConfig)
    check_changes(tmp_path / "base", tmp_path / "adapter", "loha")
