"""One answer, token by token, as plain Python: no server in sight, so it can be tested and reasoned about alone."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sartor.generate.protocol import Engine, FinishReason, Sampling, Token
from sartor.serve.text import IncrementalText, StopStrings
from sartor.types import Json, Message


class Renderer(Protocol):
    """What the server needs of `sartor.chat.Renderer`: the same rendering as in training."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of tokenizer and template."""
        ...

    def prompt(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> tuple[int, ...]:
        """The ids that ask for the assistant's next turn."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A request, ready for an engine."""

    prompt: tuple[int, ...]
    sampling: Sampling
    adapter: str | None
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one computed token adds: text (empty while it is held back), and on the last one why the answer ended."""

    text: str
    finish: FinishReason | None = None


def answer(engine: Engine, renderer: Renderer, question: Question) -> Generator[Piece]:
    """The answer to a question: exactly one piece per computed token, each before the next token is computed.

    Closing the generator, or a stop string, closes the engine's stream at once.

    Raises:
        RuntimeError: the engine ended without saying why.
    """
    text = IncrementalText(renderer.decode)
    stops = StopStrings(question.stops)
    stream = engine.stream([question.prompt], question.sampling, question.adapter)
    try:
        for token in stream:
            piece = _piece(token, text, stops)
            yield piece
            if piece.finish is not None:
                return
    finally:
        _close(stream)
    raise RuntimeError("the engine's stream ended without a finish reason")


def _piece(token: Token, text: IncrementalText, stops: StopStrings) -> Piece:
    if token.finish is None:
        ready = stops.push(text.push(token.id))
        return Piece(ready, "stop" if stops.found else None)
    last = "" if token.finish == "stop" else text.push(token.id)  # a stop token is not part of the text
    ready = stops.push(last + text.flush()) + stops.flush()
    return Piece(ready, "stop" if stops.found else token.finish)


def _close(stream: Iterator[Token]) -> None:
    if isinstance(stream, Generator):
        stream.close()
