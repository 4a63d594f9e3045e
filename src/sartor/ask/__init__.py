"""Asking a language model many things: an endpoint that speaks OpenAI's chat API, or Sartor's own engine.

for answer in asker.ask(questions, Wish(temperature=0.8)):
    …   # in the order in which they are done; each has the `key` of its question

Every question comes back exactly once, as an answer or as a named failure: nobody waits for one that got lost. Where
nothing could be asked at all (a wrong key, no such model, nobody there) an error is raised instead: what was not asked
is asked when the job is taken up again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sartor.types import Json, Message

NOT_MEMBERS: frozenset[str] = frozenset({"opening", "reading", "spending", "wire"})


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask. `key` names it among all of a job, and stays the same when the job is taken up again."""

    key: str
    messages: tuple[Message, ...]

    def seed(self, seed: int) -> int:
        """A seed of its own, so that the same words asked twice may be answered in two ways; 31 bits."""
        return int.from_bytes(hashlib.sha256(f"{seed}:{self.key}".encode()).digest()[:4]) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Wish:
    """How to answer. `schema`: a JSON Schema that the answer shall keep, where the model can be held to it."""

    max_tokens: int = 512
    temperature: float = 0.7
    seed: int = 17
    schema: Json | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a text, or why there is none (`failure`, "" where there is a text).

    `truncated`: it ended because it was as long as it may be. Tokens and `tries` are those of all tries together, since
    all are paid for; `estimated`: the server did not say how many, so they were reckoned from the characters.
    """

    key: str
    text: str = ""
    failure: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    truncated: bool = False
    estimated: bool = False
    tries: int = 1


class Asker(Protocol):
    """Who is asked: `ask/endpoint.py` or `ask/engine.py`. `name` says which model, for the card."""

    name: str

    def ask(self, questions: Iterable[Question], wish: Wish) -> Iterator[Answer]: ...

    def close(self) -> None: ...
