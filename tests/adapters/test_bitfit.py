"""BitFit: the published counts; biases where there were none train, merge, save and answer mixed batches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, MistralConfig, Qwen2Config

from sartor.adapters import family_of
from sartor.adapters.changes import Shift
from sartor.artifact.updates import merged
from sartor.errors import RecipeError, Refused

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    IDS,
    check_changes,
    check_count,
    check_counts,
    check_gradients,
    config_of,
    load,
    logits,
    random_model,
    save_config,
    trainable,
    wake,
)

BITFIT = family_of("bitfit")
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


@pytest.mark.parametrize(
    ("make", "targets", "wanted"),
    [
        (lambda: BertModel(BertConfig()), ("biases",), 102_912),
        (lambda: BertModel(BertConfig(**LARGE)), ("biases",), 272_384),
        (lambda: BertModel(BertConfig()), ("query", "intermediate.dense"), 46_080),
        (lambda: GPT2LMHeadModel(GPT2Config()), ("biases",), 102_144),
    ],
    ids=["BERT-base", "BERT-large", "the paper's subset", "GPT-2"],
)
def test_the_published_counts(make: Any, targets: tuple[str, ...], wanted: int) -> None:
    """All biases of the model, those of its norms and pooler too (the paper's table 1; GPT-2 by the same rule)."""
    with torch.device("meta"):
        model = BITFIT.attach(make(), config_of("bitfit", targets=targets))
    assert sum(weight.numel() for weight in trainable(model)) == wanted


def test_counts(tmp_path: Path, smollm2_folder: Path) -> None:
    """Qwen2 has biases of its own on queries, keys and values, and they are all that is trained unless told."""
    check_counts(tmp_path, "bitfit")
    check_count(save_config(tmp_path / "qwen2", Qwen2Config), "bitfit", 3 * (32 + 16 + 16))
    check_count(tmp_path / "qwen2", "bitfit", 3 * (32 + 16 + 16 + 32 + 64 + 64 + 32), targets=("all-linear",))
    check_count(smollm2_folder, "bitfit", targets=("q_proj", "down_proj"))


def test_a_name_that_is_none_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(RecipeError, match="'q_prij'") as caught:
        BITFIT.attach(load(tiny_folder), config_of("bitfit", targets=("q_prij",)))
    assert "'q_proj'" in caught.value.hint


def test_gradients(tiny_folder: Path, tmp_path: Path, make_plan) -> None:
    check_gradients(tiny_folder, tmp_path, make_plan, "bitfit")


def test_a_trained_bias_is_a_bias(tmp_path: Path) -> None:
    """Its gradient is that of the model's own bias."""
    base = random_model(tmp_path, Qwen2Config)
    model = BITFIT.attach(copy.deepcopy(base), config_of("bitfit"))
    for each in (base, model):
        each(input_ids=IDS).logits.square().mean().backward()
    own = dict(base.named_parameters())
    for name, weight in model.get_base_model().named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, own[name.replace("adapter_bias.default.weight", "bias")].grad)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_merging_makes_real_biases_and_takes_them_back(tmp_path: Path, kind: str) -> None:
    base = random_model(tmp_path, Qwen2Config) if kind == "qwen2" else random_model(tmp_path)
    model = wake(BITFIT.attach(copy.deepcopy(base), config_of("bitfit")))
    expected, plain = logits(model), logits(base)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), plain)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert (layer.base_layer.bias is None) == (kind == "llama")
    torch.testing.assert_close(logits(model), expected)
    layer = model.merge_and_unload().model.layers[0].self_attn.q_proj
    assert type(layer) is torch.nn.Linear
    assert layer.bias.any()


def test_two_adapters_in_one_batch(tiny_folder: Path, tmp_path: Path) -> None:
    """Unlike PEFT's tuners ours does not ignore `adapter_names`."""
    model = wake(BITFIT.attach(load(tiny_folder), config_of("bitfit")))
    BITFIT.export(model, tmp_path)
    expected, plain = logits(model), logits(load(tiny_folder))
    loaded = PeftModel.from_pretrained(load(tiny_folder), tmp_path)
    with torch.no_grad():
        both = loaded.eval()(input_ids=IDS.repeat(2, 1), adapter_names=["__base__", "default"]).logits
    torch.testing.assert_close(both[:1], plain)
    torch.testing.assert_close(both[1:], expected)


def test_changes_are_shifts(tiny_folder: Path, tmp_path: Path) -> None:
    """And what they are merged into is a Llama that says it has biases."""
    changes = check_changes(tiny_folder, tmp_path / "adapter", "bitfit")
    assert len(changes.modules) == 14
    assert all(isinstance(change, Shift) for each in changes.modules.values() for change in each)
    model = merged(load(tiny_folder), changes)
    model.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load(tmp_path / "merged")), logits(model))


def test_a_model_without_a_place_for_biases_cannot_be_written(tmp_path: Path) -> None:
    base = random_model(tmp_path / "base", MistralConfig)
    model = wake(BITFIT.attach(copy.deepcopy(base), config_of("bitfit")))
    BITFIT.export(model, tmp_path / "adapter")
    with pytest.raises(Refused, match="no place for a bias"):
        merged(base, BITFIT.changes(base, tmp_path / "adapter"))
