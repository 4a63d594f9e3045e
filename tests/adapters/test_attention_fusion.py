"""AttentionFusion against its equations, its counts, and that it can learn from where it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sartor.adapters import attention_fusion
from sartor.hub import shape

from .backbones import VOCAB, attached, load, moved, plain_gradients, save_backbone, saved_bytes, segments, trainable

IDS = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@torch.no_grad()
def states_of(folder: Path) -> torch.Tensor:
    """What entered the first layer and what left each, (2, 9, J, D)."""
    base = load(folder)
    states: list[torch.Tensor] = []
    for layer in base.model.layers:
        layer.register_forward_hook(lambda part, given, output: states.append(output))
    base(input_ids=IDS)
    return torch.stack([base.model.embed_tokens(IDS), *states], dim=2)


@torch.no_grad()
def test_as_published_it_mixes_layers_by_one_query(folder: Path) -> None:
    states, base = states_of(folder), load(folder)
    model = attached(folder, "attention_fusion", gated=False)
    mean = base.lm_head(base.model.norm(states.mean(dim=2)))
    assert torch.allclose(model(input_ids=IDS).logits, mean, atol=1e-5), "a query of zero is the mean of the layers"
    (query,) = trainable(moved(model)).values()
    mixed = torch.empty(2, 9, 32)
    for row in range(2):
        for token in range(9):
            scores = [torch.dot(query, state) for state in states[row, token]]
            shares = torch.softmax(torch.stack(scores), dim=0)
            mixed[row, token] = sum(share * state for share, state in zip(shares, states[row, token], strict=True))
    assert torch.allclose(model(input_ids=IDS).logits, base.lm_head(base.model.norm(mixed)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_with_the_gate_it_is_the_documented_formula(folder: Path) -> None:
    states, base = states_of(folder), load(folder)
    model = moved(attached(folder, "attention_fusion"), 0.5)
    query, bias, gate = trainable(model).values()
    even = states / states.square().mean(dim=-1, keepdim=True).sqrt()
    shares = torch.softmax((even * query).sum(-1) / 32**0.5 + bias, dim=-1)
    mixed = (shares[..., None] * states).sum(dim=2)
    last = states[:, :, -1]
    wanted = base.lm_head(base.model.norm(last + gate * (mixed - last)))
    assert torch.allclose(model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)


def test_it_can_learn_from_where_it_begins(folder: Path) -> None:
    """A bias of +30 on the last layer begins as the base too, but has next to no slope."""
    model = attached(folder, "attention_fusion")
    slopes = plain_gradients(model, segments())
    (gate,) = [slope for name, slope in slopes.items() if name.endswith("gate")]
    assert gate.abs() > 1e-4


def test_the_published_count_and_that_of_language_models(smollm2_folder: Path) -> None:
    sizes = shape(smollm2_folder)
    published = attention_fusion.count(sizes, attention_fusion.Config(gated=False))
    assert published == 576
    assert attention_fusion.count(sizes, attention_fusion.Config()) == 576 + 30 + 2
    bert = sizes.model_copy(update={"hidden": 768})
    published = attention_fusion.count(bert, attention_fusion.Config(gated=False))
    assert f"{published / 85_054_464:.4%}" == "0.0009%"  # of BERT-base's encoder, as the paper says


def test_it_keeps_less_than_half_of_what_lora_does(folder: Path) -> None:
    lora = get_peft_model(load(folder), LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert saved_bytes(attached(folder, "attention_fusion"), IDS) < saved_bytes(lora, IDS) / 2
