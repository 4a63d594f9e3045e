"""What an engine does: token ids in, one `Token` at a time out, with the base or a named adapter.

An engine runs one batch. Requests join it by `submit` and leave it by `cancel` between two of its steps, each with an
adapter of its own; `stream` is the same for a whole list of prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sartor.errors import MachineError, ModelError, UserError
from sartor.names import suggest
from sartor.plan import Quantized

WEIGHED = 512  # positions whose logits are held at once in fp32: 512 × 49,152 are 96 MiB

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
    """A whole answer: ids, why it ended, and its equal share of the seconds that its batch took.

    The ids are what was sampled, without the stop token, or what was weighed.
    """

    ids: tuple[int, ...]
    finish: FinishReason
    seconds: float


class NoRoom(UserError):
    """A prompt leaves no room for an answer, in the context or in the cache."""


class Failed(Exception):
    """One request failed, of `error`, and has left the batch; the others go on, and have lost nothing."""

    def __init__(self, row: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.row = row
        self.error = error


class Engine(Protocol):
    """A base model with named adapters, ready to sample. All calls come from one thread at a time."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the loaded adapters."""
        ...

    @property
    def context(self) -> int:
        """The longest sequence, prompt and answer together, in tokens; of an encoder-decoder, of either."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever opened it should hear: a slower path was taken, and why."""
        ...

    @property
    def requests(self) -> Collection[int]:
        """Handles of the requests in the batch: those that have not ended, failed or been cancelled."""
        ...

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """Let a prompt join the batch; its handle, never used twice. Nothing is computed yet.

        An answer ends at the latest where there is no more room for it.

        Raises:
            NoRoom: there is none at all.
            UserError: the prompt is empty, there is no such adapter, or the model gives no answers.
        """
        ...

    def advance(self) -> list[Token]:
        """One step of the batch: the tokens that it gave, at most one a request; a step that reads may give none.

        It does not wait long, as whoever calls it has other work for its thread. One engine does: `padded` computes
        whole answers of an encoder-decoder in a step, and nobody joins or leaves meanwhile.

        Raises:
            Failed: one request cannot be answered. Any other error has broken all of them.
        """
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
        """For each sequence, the sum of log p (nats) of its tokens after the first, given those before them.

        Raises:
            UserError: a sequence is empty or too long, or the base has no likelihood of a text.
        """
        ...

    def close(self) -> None:
        """Let go of what does not go by itself: servers, threads. Nothing is asked afterwards; twice is no error."""
        ...


def require_plain(quantize: Quantized, engine: str) -> None:
    """Refuse a base of packed weights, for engines that hold weights in another way.

    Raises:
        ModelError: so they were held in training.
    """
    if quantize != "none":
        raise ModelError(
            f"the base was held in {quantize} when this was trained, and {engine} would answer with other weights",
            hint="leave out --engine, or merge: `sartor convert --to model` writes a model that every engine opens",
        )


def require_adapter(adapter: str | None, adapters: tuple[str, ...]) -> None:
    """Refuse a name that is none of the loaded adapters'; `None` is the base.

    Raises:
        UserError: with the nearest name.
    """
    if adapter is not None and adapter not in adapters:
        raise UserError(f"no adapter {adapter!r} is loaded", hint=suggest(adapter, adapters))


def room_for_answer(
    prompt: Sequence[int],
    sampling: Sampling,
    context: int,
    *,
    bound: str = "the context is",
    way_out: str = "shorten the prompt",
) -> int:
    """Tokens that an answer may have in a context of so many; `bound` names it before its number.

    Raises:
        NoRoom: the prompt is as long as the context.
        UserError: it is empty.
    """
    if not prompt:
        raise UserError("the prompt is empty", hint="a prompt has at least one token")
    if len(prompt) >= context:
        raise NoRoom(
            f"a prompt of {len(prompt)} tokens leaves no room for an answer: {bound} {context} tokens",
            hint=way_out,
        )
    return min(sampling.max_new_tokens, context - len(prompt))


def require_weighable(
    sequences: Sequence[Sequence[int]], longest: int, *, way_out: str = "shorten the text, or cut it"
) -> None:
    """Refuse sequences that have no tokens, or more than an engine can weigh.

    Raises:
        UserError: with the length of the first of them.
    """
    for ids in sequences:
        if not 1 <= len(ids) <= longest:
            raise UserError(
                f"a sequence of {len(ids)} tokens cannot be weighed: it may have 1 to {longest}",
                hint=way_out if ids else "a sequence has at least one token",
            )


def lost(handle: int) -> MachineError:
    """What to say of a request that the engine no longer has, though it never ended."""
    return MachineError(
        f"the engine dropped request {handle} without ending it",
        hint="ask again; if it happens again, it is an error of the engine: please report it",
    )


def adapter_of_each(adapter: Adapters, num_prompts: int) -> tuple[str | None, ...]:
    """The adapter of each prompt, where one may stand for all."""
    each = (adapter,) * num_prompts if adapter is None or isinstance(adapter, str) else tuple(adapter)
    if len(each) != num_prompts:
        raise ValueError(f"{len(each)} adapters for {num_prompts} prompts")
    return each


def stream(engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
    """`Engine.stream` on an engine's `submit`, `advance` and `cancel`; one at a time, and no requests beside it.

    Raises:
        SartorError: a request failed, or the engine lost it.
    """
    chosen = adapter_of_each(adapter, len(prompts))
    rows: dict[int, int] = {}
    try:
        for row, (prompt, name) in enumerate(zip(prompts, chosen, strict=True)):
            rows[engine.submit(prompt, sampling, name)] = row
        while rows:
            for token in _advanced(engine):
                row = rows[token.row] if token.finish is None else rows.pop(token.row)
                yield Token(row, token.id, token.finish)
            gone = rows.keys() - set(engine.requests)
            if gone:
                raise lost(min(gone))
    finally:
        for handle in rows:
            engine.cancel(handle)


def _advanced(engine: Engine) -> list[Token]:
    """One step; the error of a request that failed in it."""
    try:
        return engine.advance()
    except Failed as failed:
        raise failed.error from failed
