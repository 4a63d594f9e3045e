"""New tokens: which rows of embedding and head are trained; gradients with tied and untied heads; changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Qwen2Config

from sartor.adapters import family_of
from sartor.adapters.changes import Weight
from sartor.errors import RecipeError

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    check_changes,
    check_count,
    check_counts,
    check_gradients,
    config_of,
    load,
    random_model,
    trainable,
)

NEW = family_of("new_tokens")


def test_counts(tmp_path: Path, smollm2_folder: Path) -> None:
    check_counts(tmp_path, "new_tokens")
    check_count(tmp_path / "biased", "new_tokens", tokens=(7, 300, 12))
    check_count(smollm2_folder, "new_tokens", 2 * 576)


def test_tokens_are_named_by_words_or_by_numbers(tiny_folder: Path) -> None:
    model = NEW.attach(load(tiny_folder), config_of("new_tokens", tokens=("<|im_start|>", "<eos>", 777)))
    assert model.active_peft_config.token_indices == [1, 2, 777]


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        (("<no such token>",), "'<no such token>', which this model does not have"),
        ((49_152,), "names 49152, which is outside of the vocabulary"),
        ((-1,), "names -1, which is outside of the vocabulary"),
        (("<bos>", 1), "names token 1 twice"),
    ],
)
def test_what_is_no_token_is_refused(tiny_folder: Path, tokens: tuple[int | str, ...], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        NEW.attach(load(tiny_folder), config_of("new_tokens", tokens=tokens))


def test_a_model_that_names_no_first_token(tmp_path: Path) -> None:
    base = random_model(tmp_path, Qwen2Config, bos_token_id=None)
    with pytest.raises(RecipeError, match="'<bos>', which this model does not have") as caught:
        NEW.attach(base, config_of("new_tokens"))
    assert "as a number" in caught.value.hint


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_gradients(tmp_path: Path, make_plan, kind, tied: bool) -> None:
    """A tied row gets what it is due as an input and as an output; an untied head has rows of its own."""
    random_model(tmp_path / "base", kind, tie_word_embeddings=tied)
    backend = check_gradients(tmp_path / "base", tmp_path / "adapter", make_plan, "new_tokens", tokens=(1, 2, 77))
    assert len(list(trainable(backend._model))) == (1 if tied else 2)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [LlamaConfig, Gemma3TextConfig])
def test_changes_are_another_embedding_and_another_head(tmp_path: Path, kind, tied: bool) -> None:
    base = random_model(tmp_path / "base", kind, tie_word_embeddings=tied)
    changes = check_changes(tmp_path / "base", tmp_path / "adapter", "new_tokens", tokens=(5, 200))
    assert changes.modules.keys() == {"model.embed_tokens", "lm_head"}
    for change in (each[0] for each in changes.modules.values()):
        assert isinstance(change, Weight)
        moved = (change.weight != base.get_input_embeddings().weight).any(dim=1)
        assert not tied or moved.nonzero().flatten().tolist() == [5, 200]
    first, second = (each[0].weight for each in changes.modules.values())
    assert torch.equal(first, second) == tied
