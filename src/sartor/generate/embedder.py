"""What an engine of an encoder does beside `protocol.Engine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sartor.errors import UserError
from sartor.generate.protocol import Engine

if TYPE_CHECKING:
    import numpy as np


@runtime_checkable
class Embedder(Protocol):
    """Gives vectors for texts."""

    def embed(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> np.ndarray:
        """A vector of length 1 for each sequence of token ids, (N, D)."""
        ...


def embedder(engine: Engine) -> Embedder:
    """The engine, as one that embeds.

    Raises:
        UserError: it does not.
    """
    if not isinstance(engine, Embedder):
        raise UserError("this model gives no embeddings", hint="choose an encoder, for example all-minilm-l6-v2")
    return engine
