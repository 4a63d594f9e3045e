"""The catalogue: every card can be read, found and told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor import hub
from sartor.catalogue import CATALOGUE, Card, Sizes, card
from sartor.recipe import ModelSpec
from sartor.sizing import shape_of

#: Family -> the class of its configuration in transformers.
CONFIGS = {
    "SmolLM2": "LlamaConfig",
    "Qwen3": "Qwen3Config",
    "Llama 3.1": "LlamaConfig",
    "Llama 3.2": "LlamaConfig",
    "Llama 3.3": "LlamaConfig",
    "Gemma 3": "Gemma3TextConfig",
    "Phi-4": "Phi3Config",
    "Mistral": "MistralConfig",
    "MiniLM": "BertConfig",
}
DECODERS = [entry for entry in CATALOGUE if entry.kind == "decoder"]


def test_names_are_lower_case_and_told_apart() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and "/" not in name for name in names)


def test_the_context_of_a_model_with_longrope_is_that_of_its_first_frequencies() -> None:
    found = card("phi-4-mini-instruct")
    assert found is not None and found.context == 4096, "`hub.shape` says so of its configuration"


def test_a_card_is_found_whatever_its_case() -> None:
    found = card("SmolLM2-135M-Instruct")
    assert found is not None
    assert found.name == "smollm2-135m-instruct"
    assert card("no such model") is None
    assert card("qwen/qwen3-8B") == card("qwen3-8b"), "by the hub's name too"
    assert card("embedded") is None


def test_facts_are_there_and_plausible() -> None:
    for entry in CATALOGUE:
        small = entry.kind != "decoder"
        assert (10 if small else 100) <= entry.parameters <= 100_000, entry.name
        assert (256 if small else 2048) <= entry.context <= 2**20, entry.name
        assert entry.family
        assert entry.licence
        assert entry.cutoff
        assert entry.tunable_on
        assert entry.source == "embedded" or entry.source.count("/") == 1, entry.name


def test_embedded_models_are_those_that_a_package_carries() -> None:
    assert {entry.name for entry in CATALOGUE if entry.source == "embedded"} == set(hub.EMBEDDED)


@pytest.mark.parametrize("entry", DECODERS, ids=lambda entry: entry.name)
def test_sizes_are_those_of_the_model(entry: Card) -> None:
    """The model itself, built from its sizes on the meta device, has the parameters that its makers state."""
    import torch
    import transformers

    sizes = entry.sizes
    config = getattr(transformers, CONFIGS[entry.family])(
        num_hidden_layers=sizes.num_layers,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=sizes.vocab,
        tie_word_embeddings=sizes.tied,
        pad_token_id=None,
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = sum(parameter.numel() for parameter in model.parameters())
    assert round(found / 1e6) == entry.parameters
    assert shape_of(entry).num_parameters == found, "norms and all"


def test_a_wrong_size_would_be_noticed() -> None:
    found = card("qwen3-0.6b")
    assert found is not None
    wrong = Sizes.model_validate({**found.sizes.model_dump(), "num_kv_heads": 16})
    assert hub.Shape(**wrong.model_dump(), context=1).num_parameters / 1e6 > found.parameters * 1.05


def test_the_embedded_model_has_the_sizes_of_its_card(smollm2_folder: Path) -> None:
    found = card("smollm2-135m-instruct")
    assert found is not None
    assert hub.shape(smollm2_folder) == hub.Shape(**found.sizes.model_dump(), context=found.context)


def test_the_embedded_encoder_has_the_sizes_of_its_card() -> None:
    found = card("all-minilm-l6-v2")
    assert found is not None
    shape = hub.shape(hub.find(ModelSpec(name=found.name)).folder)
    sizes = found.sizes.model_dump()
    assert shape == hub.Shape(**sizes, context=found.context, kind=found.kind, counted=shape.counted)
    assert round(shape.num_parameters / 1e6) == found.parameters
