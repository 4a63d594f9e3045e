"""Asking a language model many things: an endpoint that speaks OpenAI's chat API, or Sartor's own engine.

for answer in asker.ask(questions, Sampling(temperature=0.8)):
    …   # in the order in which they are done; each has the `key` of its question

Every question comes back exactly once, as an answer or as a named failure: nobody waits for one that got lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sartor.types import Json, Message

NOT_MEMBERS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask. `key` names it among all of a job, and stays the same when the job is taken up again."""

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """How to answer. `schema`: a JSON Schema that the answer shall keep, where the model can be held to it."""

    max_tokens: int = 512
    temperature: float = 0.7
    seed: int = 17
    schema: Json | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a text, or why there is none (`failure`, "" where there is a text)."""

    key: str
    text: str = ""
    failure: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0


class Asker(Protocol):
    """Who is asked: `ask/endpoint.py` or `ask/engine.py`. `name` says which model, for the card."""

    name: str

    def ask(self, questions: Iterable[Question], wish: Wish) -> Iterator[Answer]: ...

    def close(self) -> None: ...
