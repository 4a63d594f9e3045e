"""BOFT: counts of real models (PEFT reads numbers while it builds, so not on the meta device), the guard, gradients."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sartor.adapters import family_of
from sartor.errors import RecipeError
from sartor.hub import shape

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    LLAMA_3B,
    check_changes,
    check_count,
    check_counts,
    check_gradients,
    config_of,
    load,
    save_config,
    wake,
)


def test_counts(tmp_path: Path) -> None:
    check_counts(tmp_path, "boft", device="cpu")
    check_count(tmp_path / "biased", "boft", device="cpu", block=8, targets=("down_proj",))


def test_it_cannot_be_built_without_numbers(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(save_config(tmp_path))
    with torch.device("meta"), pytest.raises(RuntimeError, match="item"):
        family_of("boft").attach(AutoModelForCausalLM.from_config(config), config_of("boft"))


def test_the_published_count(tmp_path: Path) -> None:
    assert family_of("boft").count(shape(save_config(tmp_path, **LLAMA_3B)), config_of("boft")) == 802_816


def test_a_block_must_divide_the_layers(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`tune\.adapter\.block` is 5, and a layer has 32 inputs"):
        family_of("boft").count(shape(save_config(tmp_path)), config_of("boft", block=5))


def test_more_factors_than_peft_can_have_here_are_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT would make them one without an error."""
    import peft.tuners.boft.layer

    monkeypatch.setattr(peft.tuners.boft.layer, "get_fbd_cuda", lambda: None)
    with pytest.raises(RecipeError, match=r"`tune\.adapter\.factors` is 2") as caught:
        family_of("boft").attach(load(tiny_folder), config_of("boft", factors=2))
    assert "oft" in caught.value.hint


@pytest.mark.parametrize("before", [None, "clang++"])
def test_the_compiler_of_others_stays(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    """PEFT leaves `CXX=gcc` behind where its own kernel cannot be compiled, and ours would be compiled with that."""
    monkeypatch.delenv("CXX", raising=False)
    if before:
        monkeypatch.setenv("CXX", before)
    family_of("boft").attach(load(tiny_folder), config_of("boft"))
    assert os.environ.get("CXX") == before


def test_a_layer_is_turned_and_stretched(tiny_folder: Path) -> None:
    model = wake(family_of("boft").attach(load(tiny_folder), config_of("boft")))
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    rotation, scale = layer.get_delta_weight("default")
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(32), rtol=1e-5, atol=1e-5)
    x = torch.randn(3, 32)
    torch.testing.assert_close(layer(x), (x @ rotation) @ layer.base_layer.weight.T * scale[:, 0], rtol=1e-4, atol=1e-4)


def test_gradients(tiny_folder: Path, tmp_path: Path, make_plan) -> None:
    check_gradients(tiny_folder, tmp_path, make_plan, "boft")


def test_changes(tiny_folder: Path, tmp_path: Path) -> None:
    assert len(check_changes(tiny_folder, tmp_path, "boft").modules) == 4
