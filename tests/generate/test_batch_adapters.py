"""Reading adapters: plain LoRA by PEFT's own arithmetic; all else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor.errors import ModelError
from sartor.generate.batch.adapters import read_adapter

LAYER = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 3},
        {"lora_alpha": 3, "use_rslora": True},
        {"lora_alpha": 3, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 7}},
    ],
    ids=["alpha", "rslora", "patterns"],
)
def test_a_delta_is_what_peft_adds(
    family_folder: Callable[[str], Path], make_adapters: Callable[..., dict[str, Path]], settings: dict[str, Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = family_folder("Llama")
    folder = make_adapters(base, "one", **settings)["one"]
    deltas = read_adapter(folder)
    assert len(deltas) == 3 * 7
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    layer = PeftModel.from_pretrained(model, folder).get_base_model().get_submodule(LAYER)
    torch.testing.assert_close(deltas[LAYER].up_NR @ deltas[LAYER].down_RK, layer.get_delta_weight("default"))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_dora", True),
        ("peft_type", "IA3"),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("init_lora_weights", "pissa"),
        ("lora_bias", True),
    ],
)
def test_more_than_plain_lora_is_refused_by_name(
    family_folder: Callable[[str], Path],
    make_adapters: Callable[..., dict[str, Path]],
    tmp_path: Path,
    setting: str,
    value: Any,
) -> None:
    source = make_adapters(family_folder("Llama"), "one")["one"]
    config = json.loads((source / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, setting: value}))
    (tmp_path / "adapter_model.safetensors").write_bytes((source / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=f"has {setting} = "):
        read_adapter(tmp_path)


def test_weights_that_are_no_lora_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1}))
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        read_adapter(tmp_path)
    save_file({"base_model.model.lm_head.lora_embedding_A": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="lora_embedding_A"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{'r': 4}", "cannot be read: Expecting property name"),
        ("[1, 2]", "it is no JSON object"),
        ('{"peft_type": "LORA"}', "lacks 'lora_alpha'"),
        ('{"lora_alpha": null}', "cannot be read: float"),
    ],
)
def test_a_malformed_configuration_is_named(tmp_path: Path, written: str, says: str) -> None:
    (tmp_path / "adapter_config.json").write_text(written)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=says) as caught:
        read_adapter(tmp_path)
    assert "adapter_config.json" in caught.value.message
    assert "sartor package" in caught.value.hint


@pytest.mark.parametrize(("here", "missing"), ["AB", "BA"])
def test_half_a_pair_is_named(tmp_path: Path, here: str, missing: str) -> None:
    from safetensors.torch import save_file

    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1}))
    save_file(
        {f"base_model.model.{LAYER}.lora_{here}.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match=f"has lora_{here} of {LAYER} and no lora_{missing}") as caught:
        read_adapter(tmp_path)
    assert caught.value.hint


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors cannot be read"):
        read_adapter(tmp_path)
