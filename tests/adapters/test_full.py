"""Full fine-tuning of some weights: by share of the layers, by expression; what is not chosen stays to the last bit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from sartor.adapters import family_of
from sartor.backends.torch import TorchBackend
from sartor.data.pack import pack
from sartor.errors import RecipeError
from sartor.hub import shape
from sartor.objectives import sft
from sartor.plan import Adam

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    KINDS,
    check_count,
    config_of,
    load,
    make_segments,
    save_config,
    trainable,
)

FULL = family_of("full")
EXPRESSIONS = (r"layers\.[12]\..*mlp", "norm", r"^lm_head|layers\.2\.", "bias|q_proj", "embed_tokens", ".")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_counts_by_expression(tmp_path: Path, kind, tied: bool) -> None:
    """The names and sizes that are known without a model are those of the model."""
    folder = save_config(tmp_path, kind, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    for expression in EXPRESSIONS:
        config = config_of("full", parameters=expression)
        counted = sum(weight.numel() for weight in trainable(FULL.attach(model, config)))
        assert FULL.count(shape(folder), config) == counted > 0


def test_the_topmost_quarter_of_the_layers(tmp_path: Path, smollm2_folder: Path) -> None:
    """Rounded up, and at least one."""
    check_count(smollm2_folder, "top_layers")
    base = load(smollm2_folder)
    model = FULL.attach(base, config_of("top_layers"))
    layers = {
        int(found[1])
        for name, weight in model.named_parameters()
        if weight.requires_grad and (found := re.search(r"layers\.(\d+)\.", name))
    }
    assert layers == set(range(22, 30))
    for share, wanted in ((0.01, 1), (0.34, 2), (0.99, 3), (3, 3)):
        block = sum(shape(save_config(tmp_path)).block_sizes().values())
        counted = FULL.count(shape(tmp_path), config_of("full", top_layers=share))
        assert counted == wanted * block + 32 + 512 * 32 * (not shape(tmp_path).tied)


def test_an_expression_chooses_exactly_what_it_is_found_in(tiny_folder: Path) -> None:
    model = FULL.attach(load(tiny_folder), config_of("full", parameters=r"layers\.1\..*mlp"))
    chosen = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert chosen == {f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}


def test_an_expression_that_is_found_nowhere_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    config = config_of("full", parameters="no_such")
    for act in (lambda: FULL.attach(load(tiny_folder), config), lambda: FULL.count(shape(tiny_folder), config)):
        with pytest.raises(RecipeError, match="'no_such', which is in the name of no parameter"):
            act()


@pytest.mark.parametrize(
    "wrong", [{"parameters": "("}, {"parameters": "mlp", "top_layers": 1}, {"top_layers": 1.5}, {"top_layers": -0.5}]
)
def test_settings_that_are_none(wrong) -> None:
    with pytest.raises(ValidationError):
        config_of("full", **wrong)


@pytest.mark.parametrize("expression", [r"layers\.1\..*mlp", "norm", "embed_tokens", "lm_head"])
def test_only_what_is_chosen_moves_and_the_export_is_a_whole_model(
    tiny_folder: Path, tmp_path: Path, make_plan, expression: str
) -> None:
    adapter = {"name": "full", "settings": {"parameters": expression}}
    backend = TorchBackend(make_plan(tiny_folder, adapter=adapter, family="full"))
    for batch in pack(make_segments(), micro_tokens=64):
        backend.forward_backward(batch, sft, sft.Config(), sft.weight(batch))
    backend.step(Adam(learning_rate=1e-2))
    backend.export(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_folder, tmp_path))
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if re.search(expression, name)
    }
