"""New tokens: only the rows of some tokens in the embedding, and in the head, are trained.

For tokens that a tokenizer has and a model has never seen, or whose meaning is to change. PEFT's trainable tokens,
which keep the rows themselves, not differences; a head that is tied to the embedding takes the same rows, an untied one
gets rows of its own, as a token with an embedding alone could be read and never be written. Rows start as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.changes import Changes, Rows
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset
from sartor.adapters.saving import export as export
from sartor.errors import RecipeError
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "new_tokens": Preset(
        layers="hand-written",
        summary="the embedding rows of new or named tokens",
        paper="none: PEFT's TrainableTokens",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        learning_rate=10.0,  # a few rows of the width of the model, as with soft prompts
        moves_base="rows of its embedding, which would be made anew as a whole in each forward",
    )
}
PEFT_TYPES = ("TRAINABLE_TOKENS",)

NAMES = "name each token once, as a number or as a word that the tokenizer has as one token"
#: Words for tokens that the model's own configuration names.
ENDS = {"<bos>": "bos_token_id", "<eos>": "eos_token_id"}


class Config(Frozen):
    """A word is a token of the tokenizer, or `<bos>` or `<eos>`: those with which texts of the model begin and end."""

    tokens: tuple[int | str, ...] = Field(
        ("<bos>", "<eos>"), min_length=1, description="The tokens whose rows are trained, as words or as numbers."
    )


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter.

    Raises:
        RecipeError: a token is not there, or is named twice.
    """
    from peft import TrainableTokensConfig

    tied = model.config.get_text_config().tie_word_embeddings  # PEFT then ties their rows too
    ends = [model.get_input_embeddings(), *([] if tied else [model.get_output_embeddings()])]
    paths = [path for path, part in model.named_modules() if part in ends]
    return peft_model(model, TrainableTokensConfig(token_indices=_numbers(model, config), target_modules=paths))


def _numbers(model: Any, config: Config) -> list[int]:
    """The tokens as numbers, in their order."""
    numbers = [token if isinstance(token, int) else _number(model, token) for token in config.tokens]
    for token, number in zip(config.tokens, numbers, strict=True):
        if not 0 <= number < model.get_input_embeddings().weight.shape[0]:
            raise RecipeError(f"`tune.adapter.tokens` names {number}, which is outside of the vocabulary", hint=NAMES)
        if numbers.count(number) > 1:
            raise RecipeError(f"`tune.adapter.tokens` names token {number} twice, as {token!r} too", hint=NAMES)
    return numbers


def _number(model: Any, word: str) -> int:
    if word in ENDS:
        found = model.config.get_text_config().to_dict().get(ENDS[word])
        found = found[0] if isinstance(found, list) else found
    else:
        from transformers import AutoTokenizer

        found = AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True).get_vocab().get(word)
    if found is None:
        raise RecipeError(f"`tune.adapter.tokens` names {word!r}, which this model does not have", hint=NAMES)
    return int(found)


def _head_rows(model: Any, config: Config) -> Rows:
    """The trained rows of the head, which may be those of the embedding."""
    import torch

    head = model.get_base_model().get_output_embeddings()
    rows_CD = head.trainable_tokens_delta["default"]
    tokens_C = torch.tensor(head.token_indices["default"], device=rows_CD.device)
    return Rows(tokens_C, rows_CD, rows_CD.new_zeros(len(tokens_C)))


HOOKS = Hooks(head_rows=_head_rows)


def changes(base: Any, folder: Path) -> Changes:
    """Another embedding and another head."""
    return merged_changes(base, folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: a row of the embedding for each token, and one of an untied head."""
    return len(config.tokens) * shape.hidden * (1 if shape.tied else 2)
