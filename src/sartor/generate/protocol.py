"""What an engine does: token ids in, one `Token` at a time out, with the base or a named adapter.

An engine runs one batch. Requests join it by `submit` and leave it by `cancel` between two of its steps, each with an
adapter of its own; `stream` is the same for a whole list of prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]

#: One adapter for all prompts, or one for each; `None` is the base.
Adapters = str | None | Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. Temperature 0 is greedy. `stop_ids` end an answer and are not part of it.

    The same seed gives the same answer, whatever else is in the batch.
    """

    max_new_tokens: int
    stop_ids: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token. `row` is the prompt's number in `stream`, and the request's handle in `advance`.

    On the last one of a row `finish` says why it ended. A stop token is not emitted as text: its `Token` has
    `finish == "stop"`.
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
    """A base model with named adapters, ready to sample. All calls come from one thread at a time."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the loaded adapters."""
        ...

    @property
    def context(self) -> int:
        """The longest sequence, prompt and answer together, in tokens."""
        ...

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """Let a prompt join the batch; its handle, never used twice. Nothing is computed yet.

        Raises:
            UserError: the prompt leaves no room for an answer, in the context or in the cache.
        """
        ...

    def advance(self) -> list[Token]:
        """One step of the batch: the tokens that it gave, at most one a request; a step that reads may give none."""
        ...

    def cancel(self, handle: int) -> None:
        """Let a request leave the batch and free what it holds. One that has ended, or was never there, is ignored."""
        ...

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        """Sample all prompts together; yields each token before the next one is computed.

        Closing the stream lets its prompts leave the batch.
        """
        ...

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """For each sequence, the sum of log p (nats) of its tokens after the first, given those before them."""
        ...


def adapter_of_each(adapter: Adapters, num_prompts: int) -> tuple[str | None, ...]:
    """The adapter of each prompt, where one may stand for all."""
    each = (adapter,) * num_prompts if adapter is None or isinstance(adapter, str) else tuple(adapter)
    if len(each) != num_prompts:
        raise ValueError(f"{len(each)} adapters for {num_prompts} prompts")
    return each


def stream(engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
    """`Engine.stream` on an engine's `submit`, `advance` and `cancel`; one at a time, and no requests beside it."""
    chosen = adapter_of_each(adapter, len(prompts))
    rows: dict[int, int] = {}
    try:
        for row, (prompt, name) in enumerate(zip(prompts, chosen, strict=True)):
            rows[engine.submit(prompt, sampling, name)] = row
        while rows:
            for token in engine.advance():
                row = rows[token.row] if token.finish is None else rows.pop(token.row)
                yield Token(row, token.id, token.finish)
    finally:
        for handle in rows:
            engine.cancel(handle)
