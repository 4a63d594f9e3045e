"""Reading low-rank updates: PEFT's own arithmetic; damaged and foreign folders are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sartor.adapters.changes import LowRank
from sartor.adapters.low_rank import PLAIN, beyond_plain, changes_of, read_lora
from sartor.errors import ModelError

LAYER = "model.layers.1.mlp.down_proj"


def save_plain(base: Path, folder: Path, **settings: Any) -> Any:
    """The folder of an adapter with random weights that plain PEFT made; the model that it was made with."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **settings))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 3},
        {"lora_alpha": 3, "use_rslora": True},
        {"lora_alpha": 3, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 7}},
        {"lora_alpha": 3, "use_rslora": True, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 7}},
    ],
    ids=["alpha", "rslora", "patterns", "rslora with patterns"],
)
def test_an_update_is_what_peft_adds(tiny_folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = save_plain(tiny_folder, tmp_path, **settings)
    updates = read_lora(tmp_path)
    assert len(updates) == 2 * 7
    for layer, update in updates.items():
        theirs = model.get_base_model().get_submodule(layer).get_delta_weight("default")
        torch.testing.assert_close(update.up_NR @ update.down_RK, theirs)


@pytest.mark.parametrize("setting", sorted(PLAIN))
def test_what_is_more_than_plain_lora_is_named(setting: str) -> None:
    assert beyond_plain({}) == ""
    assert beyond_plain({setting: PLAIN[setting][0]}) == ""
    assert beyond_plain({setting: "pissa"}) == setting


def test_updates_must_fit_the_base(tiny_folder: Path, tmp_path: Path) -> None:
    base = save_plain(tiny_folder, tmp_path).unload()
    updates = read_lora(tmp_path)
    assert changes_of(base, updates, tmp_path).modules == {layer: (update,) for layer, update in updates.items()}
    with pytest.raises(ModelError, match=r"changes a model\.layers\.9\.q of .*, and the base has none") as caught:
        changes_of(base, {"model.layers.9.q": updates[LAYER]}, tmp_path)
    assert "trained on" in caught.value.hint
    narrow = LowRank(updates[LAYER].down_RK[:, 1:], updates[LAYER].up_NR)
    with pytest.raises(ModelError, match="down_proj of 32 x 63, and the base has one of 32 x 64"):
        changes_of(base, {LAYER: narrow}, tmp_path)


def test_weights_that_are_no_lora_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    save_plain(tiny_folder, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {**weights, "base_model.model.lm_head.lora_embedding_A": torch.zeros(1)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="lora_embedding_A"):
        read_lora(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"), [({"r": 4}, "lacks 'lora_alpha'"), ({"lora_alpha": None}, r"cannot be read: float\(\)")]
)
def test_an_alpha_that_is_none_is_named(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=rf"adapter_config\.json {says}") as caught:
        read_lora(tmp_path)
    assert "sartor package" in caught.value.hint


@pytest.mark.parametrize(("here", "missing"), ["AB", "BA"])
def test_half_a_pair_is_named(tmp_path: Path, here: str, missing: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1}))
    save_file(
        {f"base_model.model.{LAYER}.lora_{here}.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match=f"has {here} of {LAYER} and no {missing}") as caught:
        read_lora(tmp_path)
    assert caught.value.hint
