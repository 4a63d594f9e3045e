"""What the families share whose adapters are virtual tokens at the beginning of each sequence.

They are PEFT's prompt-learning methods: an encoder beside the model gives the tokens, the base stays as it is. PEFT
puts them before a row, not before a segment, so in training the backend does it (`backends/beginning.py`), and asks
here what the encoder gives.

A forward of PEFT's over one row without padding is right, and is the reference of our tests. Its `generate` is not
where transformers hands on the cache under its new name, `cache` (5.24): PEFT then embeds the whole row anew at every
step, without an error. `use_cache=False` helps tokens, and loses keys and values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sartor.adapters.changes import Changes, Prompt
from sartor.adapters.method import Preset, Server
from sartor.adapters.saving import read_weights
from sartor.types import Json

SERVED_BY: tuple[Server, ...] = ("Sartor's engine",)
NOT_IDENTITY = "the text stands after virtual tokens, and sees them from the first step on"
SAVED = "prompt_embeddings"  # PEFT's name for what any encoder gives


def preset(
    summary: str, paper: str, *, learning_rate: float = 1.0, settings: Json | None = None, prefix: bool = False
) -> Preset:
    """What all their methods have in common. Other engines take the embeddings of a prompt, but load no adapter.

    The hand-written layers take virtual tokens, but no `prefix` of keys and values.
    """
    return Preset(
        summary=summary,
        paper=paper,
        served_by=SERVED_BY,
        settings=settings or {},
        mergeable=False,
        learning_rate=learning_rate,
        not_identity=NOT_IDENTITY,
        layers="transformers" if prefix else "hand-written",
    )


def num_virtual(config: Any) -> int:
    """Places of the context that the virtual tokens take."""
    tokens: int = config.tokens
    return tokens


def live_prompt(model: Any, config: Any) -> Prompt:
    """What the encoder gives now."""
    return Prompt(model.get_prompt(batch_size=1)[0])


def saved_prompt(base: Any, folder: Path) -> Changes:
    """What it gave when it was saved: the virtual tokens themselves."""
    return Changes(beginning=Prompt(read_weights(folder)[SAVED]))
