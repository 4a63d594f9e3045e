"""The contract of a family of tuning methods, over every method of every family: adding one adds its rows here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from sartor import names
from sartor.adapters import family_of, methods
from sartor.errors import RecipeError
from sartor.hub import Shape, shape
from sartor.types import Frozen

FAMILIES = names.known("adapters")
METHODS = methods()
#: In another process: nothing of ours is loaded there, only what everybody has.
PLAIN_PEFT = """
import sys, torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
with torch.no_grad():
    logits = model(input_ids=torch.tensor([[1, 5, 9, 200, 3000]])).logits
assert not any(name.split(".")[0] == "sartor" for name in sys.modules)
save_file({"logits": logits}, sys.argv[3])
"""
IDS = torch.tensor([[1, 5, 9, 200, 3000]])


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> ModuleType:
    return names.resolve("adapters", request.param)


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def config_of(method: str, **settings: Any) -> Frozen:
    family = family_of(method)
    return family.Config(**{**family.PRESETS[method], **settings})


def tiny_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def trainable(model: Any) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def trained(folder: Path, method: str) -> Any:
    """An adapter that says something: as after training, every trainable number has moved."""
    model = family_of(method).attach(tiny_model(folder), config_of(method))
    torch.manual_seed(11)
    for parameter in trainable(model):
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


# ---- members ---------------------------------------------------------------------------------------------------------


def test_members(family: ModuleType) -> None:
    wanted = {"Config", "PRESETS", "SUMMARY", "PAPER", "SERVED_BY", "MERGEABLE", "PACKABLE"}
    assert wanted | {"attach", "export", "count"} <= set(vars(family))
    assert 0 < len(family.SUMMARY) <= 100
    assert "\n" not in family.SUMMARY
    assert family.PAPER
    assert family.SERVED_BY
    assert isinstance(family.MERGEABLE, bool)
    assert isinstance(family.PACKABLE, bool)


def test_a_family_is_a_method_of_its_own_name(family: ModuleType) -> None:
    name = family.__name__.rpartition(".")[2]
    assert name in family.PRESETS
    assert METHODS[name] == name


def test_no_method_belongs_to_two_families() -> None:
    every = [preset for family in FAMILIES for preset in names.resolve("adapters", family).PRESETS]
    assert sorted(every) == sorted(METHODS)
    assert "lora" in METHODS


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="'loar'") as caught:
        family_of("loar")
    assert "did you mean 'lora'" in caught.value.hint


def test_presets_are_valid_and_round_trip(method: str) -> None:
    config = config_of(method)
    assert type(config).model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config_of(method, no_such_setting=1)
    with pytest.raises(ValidationError):
        config.__setattr__("r", 3)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def count_on_meta(folder: Path, method: str, **settings: Any) -> tuple[int, Shape]:
    """What PEFT itself counts, without a weight in memory."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model = family_of(method).attach(model, config_of(method, **settings))
    return model.get_nb_trainable_parameters()[0], shape(folder)


def test_the_count_is_exact(method: str, smollm2_folder: Path, tiny_folder: Path) -> None:
    for folder in (smollm2_folder, tiny_folder):
        counted, sizes = count_on_meta(folder, method)
        assert family_of(method).count(sizes, config_of(method)) == counted


def test_lora_of_rank_16_on_all_linear_layers_of_smollm2(smollm2_folder: Path) -> None:
    counted, sizes = count_on_meta(smollm2_folder, "lora", r=16)
    assert family_of("lora").count(sizes, config_of("lora", r=16)) == counted == 4_884_480


@pytest.mark.parametrize("settings", [{"r": 3}, {"targets": ("q_proj", "v_proj")}, {"r": 8, "targets": ("down_proj",)}])
def test_the_count_follows_the_settings(smollm2_folder: Path, settings: dict[str, Any]) -> None:
    counted, sizes = count_on_meta(smollm2_folder, "lora", **settings)
    assert family_of("lora").count(sizes, config_of("lora", **settings)) == counted


def test_only_the_adapter_is_trained_and_in_fp32(method: str, tiny_folder: Path) -> None:
    model = family_of(method).attach(
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16), config_of(method)
    )
    own = list(trainable(model))
    assert sum(parameter.numel() for parameter in own) == family_of(method).count(shape(tiny_folder), config_of(method))
    assert {parameter.dtype for parameter in own} == {torch.float32}


def test_identity_at_the_start(method: str, tiny_folder: Path) -> None:
    base = logits(tiny_model(tiny_folder))
    model = family_of(method).attach(tiny_model(tiny_folder), config_of(method))
    assert torch.allclose(logits(model), base, rtol=1e-5, atol=1e-5)


def test_a_trained_adapter_says_something_else(method: str, tiny_folder: Path) -> None:
    base = logits(tiny_model(tiny_folder))
    assert not torch.allclose(logits(trained(tiny_folder, method)), base, rtol=1e-2, atol=1e-2)


# ---- on disk ---------------------------------------------------------------------------------------------------------


def test_the_export_loads_in_plain_peft_with_equal_logits(method: str, tiny_folder: Path, tmp_path: Path) -> None:
    model = trained(tiny_folder, method)
    expected = logits(model)
    folder = tmp_path / "adapter"
    family_of(method).export(model, folder)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_folder)
    command = [sys.executable, "-c", PLAIN_PEFT, str(tiny_folder), str(folder), str(tmp_path / "logits.safetensors")]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    found = load_file(tmp_path / "logits.safetensors")["logits"]
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_merging_equals_the_forward(method: str, tiny_folder: Path) -> None:
    if not family_of(method).MERGEABLE:
        return
    model = trained(tiny_folder, method)
    expected = logits(model)
    assert torch.allclose(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)
