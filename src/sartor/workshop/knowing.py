"""What cleaners may know of models: a tokenizer that counts, an encoder that embeds. Opened when one needs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sartor.chat import Renderer, open_renderer
from sartor.data.clean import Context
from sartor.data.prepare import num_tokens
from sartor.hub import find
from sartor.recipe import ModelSpec
from sartor.texts import open_texts
from sartor.types import Embed, Example, Message
from sartor.workshop import Job

ENCODER = "all-minilm-l6-v2"


def knowing(job: Job, *, model: str | None, encoder: str, held_out: Sequence[Example]) -> Context:
    """The context of cleaners: no encoder is opened that none of them needs."""
    count = None
    if model is not None:
        renderer = renderer_of(model)
        count = lambda example: num_tokens(example, renderer)  # noqa: E731
    return Context(held_out=held_out, count_tokens=count, embed=embed_by(encoder), root=job.root, seed=job.seed)


def embed_by(encoder: str = ENCODER) -> Embed:
    """Vectors of length 1 by an encoder, which is opened when the first are asked for."""
    return lambda conversations: _opened(encoder)(conversations)


@cache
def _opened(encoder: str) -> Embed:
    """An encoder at work.

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
