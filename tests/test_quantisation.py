"""How a base is held: by recipe, method and checkpoint; contradictions are refused with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sartor.catalogue import CATALOGUE
from sartor.errors import ModelError, RecipeError
from sartor.quantisation import by_recipe, optimizer_words, quantize_of, words
from sartor.recipe import Recipe
from sartor.sizing import shape_of

SMOLLM2 = shape_of(next(card for card in CATALOGUE if card.name == "smollm2-135m-instruct"))


def recipe(adapter: Any = "lora", quantize: str | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name": "base", "quantize": quantize},
            "data": {"train": "train.jsonl"},
            "task": {"metric": "exact"},
            "tune": {"adapter": adapter},
        }
    )


def checkpoint(folder: Path, method: str = "") -> Path:
    config = {"quantization_config": {"quant_method": method}} if method else {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("adapter", "asked", "held", "why"),
    [
        ("lora", None, "none", "neither the recipe nor the method"),
        ("lora", "nf4", "nf4", "asked for"),
        ("lora", "int8", "int8", "asked for"),
        ("qlora", None, "nf4", "qlora trains on a base in four bits"),
        ("qlora", "fp4", "fp4", "asked for"),
        ("dora", "nf4", "nf4", "asked for"),
        ("full", "none", "none", "asked for"),
    ],
)
def test_what_is_decided(tmp_path: Path, adapter: str, asked: str | None, held: str, why: str) -> None:
    found, reason = quantize_of(recipe(adapter, asked), checkpoint(tmp_path), "decoder")
    assert found == held
    assert why in reason


@pytest.mark.parametrize("stored", ["gptq", "awq"])
def test_a_quantised_checkpoint_is_taken_as_it_is(tmp_path: Path, stored: str) -> None:
    assert quantize_of(recipe(), checkpoint(tmp_path, stored), "decoder")[0] == stored
    with pytest.raises(RecipeError, match=f"holds {stored} weights"):
        quantize_of(recipe(quantize="nf4"), checkpoint(tmp_path, stored), "decoder")
    with pytest.raises(RecipeError, match="trains the weights themselves"):
        quantize_of(recipe("full"), checkpoint(tmp_path, stored), "decoder")
    with pytest.raises(ModelError, match="of the kind 'hqq'"):
        quantize_of(recipe(), checkpoint(tmp_path, "hqq"), "decoder")


@pytest.mark.parametrize(
    ("adapter", "asked", "message"),
    [
        ("qlora", "none", "qlora is a method for a base in four bits"),
        ("qlora", "int8", "qlora is a method for a base in four bits"),
        ("full", "nf4", "full trains the weights themselves"),
        ("pissa", "nf4", "pissa cannot be trained on such a base"),
        ("lst", "nf4", "pruned by the gradients"),
        ("olora", "fp4", "olora cannot be trained on such a base"),
    ],
)
def test_contradictions(adapter: str, asked: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refusal:
        by_recipe(recipe(adapter, asked), "decoder")
    assert "lora" in refusal.value.hint


def test_only_decoders() -> None:
    assert by_recipe(recipe(), "encoder")[0] == "none"
    with pytest.raises(RecipeError, match="no decoder"):
        by_recipe(recipe("qlora"), "encoder")


def test_words() -> None:
    said = words("nf4", "asked for in the recipe", SMOLLM2, 2)
    assert said.startswith("asked for in the recipe: 80 MiB of weights instead of 257")
    assert words("none", "because", SMOLLM2, 2) == "because"


def test_a_cpu_pages_nothing() -> None:
    assert "the moments just stay in memory" in optimizer_words("paged_adamw_8bit", "asked for", "cpu")
    assert "saves memory, not time" in optimizer_words("adamw_8bit", "asked for", "cpu")
    assert optimizer_words("paged_adamw_8bit", "asked for", "cuda") == "asked for"
    assert optimizer_words("adamw", "the usual", "cpu") == "the usual"
