"""(IA)³: keys, values and inner values are scaled, on every family of models; counts, gradients, changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, Phi3Config

from sartor.adapters import family_of
from sartor.adapters.changes import Scale
from sartor.errors import RecipeError, Unsupported

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    IDS,
    KINDS,
    LLAMA_3B,
    check_changes,
    check_count,
    check_counts,
    check_gradients,
    config_of,
    load,
    random_model,
    save_config,
)


def test_counts(tmp_path: Path, smollm2_folder: Path) -> None:
    check_counts(tmp_path, "ia3")
    check_count(tmp_path / "biased", "ia3", targets=("q_proj",), feedforward=("o_proj", "down_proj"))
    check_count(smollm2_folder, "ia3")


def test_the_published_count(tmp_path: Path) -> None:
    check_count(save_config(tmp_path, **LLAMA_3B), "ia3", 286_720)


def test_a_layer_is_scaled_once() -> None:
    for wrong in ({"targets": ("down_proj",)}, {"targets": (), "feedforward": ()}):
        with pytest.raises(ValidationError, match="at least one is named"):
            config_of("ia3", **wrong)
    for wrong in ({"targets": ("all-linear",)}, {"feedforward": ("all-linear",)}):
        with pytest.raises(ValidationError, match="takes names, not all-linear"):
            config_of("ia3", **wrong)


def test_a_base_without_keys_of_their_own_is_refused_until_layers_are_named(tmp_path: Path) -> None:
    folder = save_config(tmp_path, Phi3Config, pad_token_id=0)
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    with pytest.raises(RecipeError, match="asks for k_proj, v_proj, and no layer of Phi3") as caught:
        family_of("ia3").attach(base, config_of("ia3"))
    assert "down_proj, gate_up_proj, lm_head, o_proj, qkv_proj" in caught.value.hint
    check_count(folder, "ia3", targets=("qkv_proj",))


def test_gradients(tiny_folder: Path, tmp_path: Path, make_plan) -> None:
    check_gradients(tiny_folder, tmp_path, make_plan, "ia3")


@pytest.mark.parametrize("kind", KINDS)
def test_keys_values_and_inner_values_are_scaled(tmp_path: Path, kind) -> None:
    """A bias of the layer is scaled with its output, as Qwen2 shows."""
    random_model(tmp_path / "base", kind)
    changes = check_changes(tmp_path / "base", tmp_path / "adapter", "ia3")
    scaled = {name.rpartition(".")[2]: each[0] for name, each in changes.modules.items()}
    assert scaled.keys() == {"k_proj", "v_proj", "down_proj"}
    assert all(isinstance(change, Scale) for change in scaled.values())
    assert scaled["k_proj"].input_K is None
    assert scaled["k_proj"].output_N.shape == (16,)
    assert scaled["down_proj"].input_K.shape == (64,)
    assert scaled["down_proj"].output_N is None


def test_a_mixed_batch_is_refused(tiny_folder: Path) -> None:
    """PEFT ignores `adapter_names` here: a row of the plain base would be answered by the adapter."""
    model = family_of("ia3").attach(load(tiny_folder), config_of("ia3"))
    model(input_ids=IDS)
    with pytest.raises(Unsupported, match="the active adapter, of type IA3"):
        model(input_ids=IDS, adapter_names=["__base__"])
