"""Bottleneck adapters: the published counts, and how new ones are drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, T5Config, T5ForConditionalGeneration

from sartor.adapters import bottleneck
from sartor.adapters.bottleneck import Config

T5_BASE = T5Config(vocab_size=32128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
BERT_LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def trainable(model: Any) -> int:
    return sum(item.numel() for item in model.parameters() if item.requires_grad)


@pytest.mark.parametrize(("place", "published"), [("both", 1_855_104), ("feed_forward", 951_360)])
def test_the_published_counts_on_t5_base(place: Any, published: int) -> None:
    """Mahabadi et al. 2021, table 1: adapters of width 24, with all norms: 0.832 % and 0.427 %."""
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5_BASE)
    assert sum(item.numel() for item in model.parameters()) == 222_903_552
    assert trainable(bottleneck.attach(model, Config(size=24, place=place, norms=True))) == published


def test_the_published_count_on_bert_large() -> None:
    """Houlsby et al. 2019, width 64."""
    with torch.device("meta"):
        model = BertModel(BERT_LARGE)
    assert trainable(bottleneck.attach(model, Config(size=64))) == 6_343_680


def small() -> Any:
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    return AutoModelForCausalLM.from_config(config)


def test_the_papers_start_is_near_the_base_and_ours_is_the_base() -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        wanted = small().eval()(input_ids=ids).logits
        ours = bottleneck.attach(small(), Config()).eval()(input_ids=ids).logits
        papers = bottleneck.attach(small(), Config(init="houlsby")).eval()(input_ids=ids).logits
    assert torch.equal(ours, wanted)
    assert not torch.equal(papers, wanted)
    assert torch.allclose(papers, wanted, atol=1e-2)


def test_the_papers_start_is_a_cut_normal() -> None:
    model = bottleneck.attach(small(), Config(init="houlsby"))
    for name, item in model.named_parameters():
        if item.requires_grad:
            assert float(item.abs().max()) <= 0.02
            assert (float(item.std()) > 0.007) == name.endswith("weight")
