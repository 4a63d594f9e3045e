"""Prefix tuning: published counts, a start from text, and the keys and values as what is left of the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sartor.adapters import prefix_tuning
from sartor.adapters.prefix_tuning import Config
from sartor.data.pack import pack, segment

TEXT = [7, 300, 21, 9, 4000, 5, 88, 13]
IDS = torch.tensor([[1, 5, 9, 200]])


def attached(folder: Path, config: Config) -> Any:
    return prefix_tuning.attach(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)


def test_published_counts(trained_by: Callable[..., int], trained_of_gpt2_medium: Callable[..., int]) -> None:
    assert trained_by("p_tuning_v2", tokens=200) == 11_468_800  # PEFT's benchmark, Llama-3.2-3B
    assert trained_by("prefix_tuning", tokens=10) > 0  # the formula holds for the network as well
    assert trained_of_gpt2_medium("p_tuning_v2", tokens=5) == 245_760  # "0.1 %"


@pytest.mark.parametrize("network", [True, False])
def test_it_starts_as_the_beginning_of_the_training_text(network: bool, tiny_folder: Path) -> None:
    """The model then answers as its base does after that text."""
    config = Config(tokens=6, network=network, width=16)
    model = attached(tiny_folder, config)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    prefix_tuning.calibrate(model, config, pack([segment("row", TEXT, [1.0] * 8)], micro_tokens=64))
    with torch.no_grad():
        found = model.eval()(input_ids=IDS).logits
        wanted = base(input_ids=torch.cat([torch.tensor([TEXT[:6]]), IDS], dim=1)).logits[:, 6:]
    assert torch.allclose(found, wanted, atol=1e-3)


def test_a_text_that_is_too_short_is_repeated(tiny_folder: Path) -> None:
    config = Config(tokens=20, network=False)
    model = attached(tiny_folder, config)
    prefix_tuning.calibrate(model, config, pack([segment("row", TEXT, [1.0] * 8)], micro_tokens=64))
    values = prefix_tuning.live_prefix(model, config).values_PG[0]
    assert torch.allclose(values[7:14], values[:7], atol=1e-5)  # the first layer's values know no position


def test_without_text_it_starts_from_zeros(tiny_folder: Path) -> None:
    for network in (True, False):
        model = attached(tiny_folder, Config(network=network))
        prefix_tuning.calibrate(model, Config(network=network), [])
        assert not any(part.any() for part in prefix_tuning.live_prefix(model, Config()).keys_PG)


@pytest.mark.parametrize("network", [True, False])
def test_what_is_saved_are_keys_and_values(network: bool, tiny_folder: Path, tmp_path: Path) -> None:
    config = Config(tokens=6, network=network, width=16)
    model = attached(tiny_folder, config)
    prefix_tuning.calibrate(model, config, pack([segment("row", TEXT, [1.0] * 8)], micro_tokens=64))
    live = prefix_tuning.live_prefix(model, config)
    prefix_tuning.export(model, tmp_path)
    saved = prefix_tuning.changes(model.get_base_model(), tmp_path).beginning
    assert [part.shape for part in saved.keys_PG] == [(6, 64)] * 2
    for ours, theirs in zip((*saved.keys_PG, *saved.values_PG), (*live.keys_PG, *live.values_PG), strict=True):
        assert torch.equal(ours, theirs)
