"""One answer, token by token, as plain Python: no server in sight, so it can be tested and reasoned about alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sartor.generate.protocol import Engine, FinishReason, NoRoom, Sampling, Token
from sartor.serve.errors import refused
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

    def opening(self, text: str) -> tuple[int, ...]:
        """The ids of running text that is to be gone on with."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A request, ready for an engine. `goes_on`: the prompt is running text, and what comes next is part of it."""

    prompt: tuple[int, ...]
    sampling: Sampling
    adapter: str | None
    stops: tuple[str, ...] = ()
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What one computed token adds: text (empty while it is held back), and on the last one why the answer ended."""

    text: str
    finish: FinishReason | None = None


class Answering:
    """An answer on its way: it joins the engine's batch, makes a piece of text of each token, and leaves."""

    def __init__(self, engine: Engine, renderer: Renderer, question: Question) -> None:
        self._engine = engine
        self._question = question
        self._text = IncrementalText(renderer.decode, question.prompt[-1:] if question.goes_on else ())
        self._stops = StopStrings(question.stops)

    def join(self) -> int:
        """Ask the engine; the handle that its tokens will carry.

        Raises:
            ApiError: 400, if there is no room for an answer.
            UserError: the engine refuses it for another reason.
        """
        try:
            return self._engine.submit(self._question.prompt, self._question.sampling, self._question.adapter)
        except NoRoom as error:
            param = "prompt" if self._question.goes_on else "messages"
            raise refused(error, param=param, code="context_length_exceeded") from error

    def push(self, token: Token) -> Piece:
        """Exactly one piece a token; the first that has a finish reason is the last, whatever the engine says."""
        if token.finish is None:
            ready = self._stops.push(self._text.push(token.id))
            return Piece(ready, "stop" if self._stops.found else None)
        last = "" if token.finish == "stop" else self._text.push(token.id)  # a stop token is not part of the text
        ready = self._stops.push(last + self._text.flush()) + self._stops.flush()
        return Piece(ready, "stop" if self._stops.found else token.finish)
