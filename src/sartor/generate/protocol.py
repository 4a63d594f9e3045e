"""What an engine does: token ids in, one `Token` at a time out, with the base or a named adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. Temperature 0 is greedy. `stop_ids` end an answer and are not part of it."""

    max_new_tokens: int
    stop_ids: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token of the prompt number `row`. On the last one of a row `finish` says why it ended.

    A stop token is not emitted as text: its `Token` has `finish == "stop"`.
    """

    row: int
    id: int
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: ids without the stop token, why it ended, and the seconds from the start of its batch."""

    ids: tuple[int, ...]
    finish: FinishReason
    seconds: float


class Engine(Protocol):
    """A base model with named adapters, ready to sample. One stream at a time; closing a stream frees its memory."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the loaded adapters."""
        ...

    @property
    def context(self) -> int:
        """The longest sequence, prompt and answer together, in tokens."""
        ...

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: str | None) -> Iterator[Token]:
        """Sample all prompts together; yields each token before the next one is computed. `None` = the base."""
        ...

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """For each sequence, the sum of log p (nats) of its tokens after the first, given those before them."""
        ...
