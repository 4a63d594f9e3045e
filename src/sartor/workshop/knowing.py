"""What cleaners may know of models: a tokenizer that counts, an encoder that embeds. Opened when one needs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sartor.chat import Renderer, open_renderer
from sartor.data.clean import Context
from sartor.data.cleaning import Chosen
from sartor.data.prepare import num_tokens
from sartor.hub import find
from sartor.recipe import ModelSpec
from sartor.texts import open_texts
from sartor.types import Embed, Example, Message
from sartor.workshop import Job

#: Cleaners that embed, or may be told to.
EMBEDS = frozenset({"semantic_duplicates", "label_noise"})


def knowing(
    steps: Sequence[Chosen], job: Job, *, model: str | None, encoder: str, held_out: Sequence[Example]
) -> Context:
    """The context of cleaners: no model is opened that none of them needs."""
    count = None
    if model is not None:
        renderer = renderer_of(model)
        count = lambda example: num_tokens(example, renderer)  # noqa: E731
    embed = (lambda texts: embed_by(encoder)(texts)) if any(step.name in EMBEDS for step in steps) else None
    return Context(held_out=held_out, count_tokens=count, embed=embed, seed=job.seed)


@cache
def embed_by(encoder: str) -> Embed:
    """Vectors of length 1 by an encoder.

    Raises:
        ModelError: there is no such model.
        UserError: it gives no embeddings.
    """
    from sartor.generate import padded  # torch, which other cleaners do without
    from sartor.generate.embedder import embedder

    folder = find(ModelSpec(name=encoder)).folder
    engine = padded.open_engine(folder, {}, form="embedder")
    speech = open_texts(folder, folder, "embedder")

    def embed(conversations: Sequence[Sequence[Message]]) -> Any:
        room = engine.context
        return embedder(engine).embed([speech.prompt(turns)[:room] for turns in conversations], None)

    return embed


def renderer_of(model: str) -> Renderer:
    """The tokenizer and template of a base.

    Raises:
        ModelError: there is no such model.
    """
    return open_renderer(Path(find(ModelSpec(name=model)).folder))
