"""VeRA: published counts, one pair of matrices for all layers, and what an engine reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sartor.adapters import vera
from sartor.adapters.changes import LowRank, Weight
from sartor.errors import ModelError

LAYER = "model.layers.1.mlp.down_proj"


def base_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trained(folder: Path, **settings: Any) -> Any:
    model = vera.attach(base_model(folder), vera.Config(**settings))
    torch.manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter))
    return model


def test_the_published_count(trained_by: Callable[..., int]) -> None:
    assert trained_by("vera", targets=("q_proj", "v_proj")) == 129_024


def test_the_papers_start(tiny_folder: Path) -> None:
    layer = vera.attach(base_model(tiny_folder), vera.Config()).get_base_model().get_submodule(LAYER)
    assert torch.equal(layer.vera_lambda_d["default"], torch.full((256,), 0.1))
    assert not layer.vera_lambda_b["default"].any()


def test_changes_are_what_peft_adds(tiny_folder: Path, tmp_path: Path) -> None:
    model = trained(tiny_folder, r=8)
    vera.export(model, tmp_path)
    modules = vera.changes(base_model(tiny_folder), tmp_path).modules
    assert len(modules) == 2 * 7
    for name, (change,) in modules.items():
        assert isinstance(change, LowRank)
        theirs = model.get_base_model().get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(change.up_NR @ change.down_RK, theirs, rtol=1e-5, atol=1e-5)


def test_an_adapter_without_its_matrices_is_merged(tiny_folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, that another machine may draw others
        config = VeraConfig(r=8, target_modules=["v_proj"], save_projection=False, d_initial=0.5)
        model = get_peft_model(base_model(tiny_folder), config)
        torch.nn.init.ones_(model.get_base_model().model.layers[0].self_attn.v_proj.vera_lambda_b["default"])
        model.save_pretrained(tmp_path)
        modules = vera.changes(base_model(tiny_folder), tmp_path).modules
    (change,) = modules["model.layers.0.self_attn.v_proj"]
    assert isinstance(change, Weight)
    with torch.no_grad():
        merged = model.merge_and_unload().model.layers[0].self_attn.v_proj.weight
    torch.testing.assert_close(change.weight, merged)


def test_an_adapter_of_another_base_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    vera.export(trained(tiny_folder, r=8), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    wide = {name: torch.ones(20) if name.endswith("lambda_b") else item for name, item in weights.items()}
    save_file(wide, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="and the base has one of"):
        vera.changes(base_model(tiny_folder), tmp_path)


def test_a_checkpoint_holds_the_matrices(tiny_folder: Path, tmp_path: Path) -> None:
    """As if this machine had drawn others: what is taken up is the same model, in every layer."""
    model, other = trained(tiny_folder, r=8), trained(tiny_folder, r=8)
    state = {name: item.clone() for name, item in vera.HOOKS.state(model, vera.Config()).items()}
    for item in vera.HOOKS.state(other, vera.Config()).values():
        item.neg_().mul_(3)
    ids = torch.tensor([[1, 5, 9]])
    assert not torch.allclose(other.eval()(ids).logits, model.eval()(ids).logits, atol=1e-2)
    vera.HOOKS.restore(other, vera.Config(), state)
    assert torch.equal(other(ids).logits, model(ids).logits)


def test_an_export_loads_in_plain_peft(tiny_folder: Path, tmp_path: Path) -> None:
    model = trained(tiny_folder, r=8)
    vera.export(model, tmp_path)
    assert {"base_model.vera_A", "base_model.vera_B"} <= load_file(tmp_path / "adapter_model.safetensors").keys()
    loaded = PeftModel.from_pretrained(base_model(tiny_folder), tmp_path)
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)
