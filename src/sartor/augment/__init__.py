"""Augmenting: from a few dozen examples to many, in rounds, each checked and reviewed. One recipe per file.

A file `augment/x.py` holds

- `SUMMARY`: one line for people;
- `COMPARES`: which texts must not be met twice: `question`, or `whole` where the question stays the seed's;
- `ALIKE`: the least and the most that what is made may have in common with its own seed (`known.alike`, 0 to 1);
- `NEEDS_JUDGE`: nothing comes of it unless somebody says which of two answers is better;
- `Config`: its settings, with a default for each;
- `schema(config)`: a JSON Schema of the answers, None for plain words;
- `question(draw, config, lessons)`: what a model is asked to make one new example;
- `read(text, seed, config)`: the example in an answer, with the source of its seed; else it raises `Unreadable`.

Seeds are conversations that end on a question and its answer; what stands before the question stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from sartor import names
from sartor.types import Chat, Frozen, Json, Message, Pair

KIND = "augment"
NOT_MEMBERS: frozenset[str] = frozenset(
    {
        *("checks", "examine", "failures", "gather", "grow", "judge", "known", "lessons"),
        *("review", "rounds", "turns", "work"),
    }
)

#: What recipes make.
Made = Chat | Pair


@dataclass(frozen=True, slots=True)
class Draw:
    """What one question is made from: `seed` is the origin of what comes of it, `others` are shown beside it.

    `number`: of the question, from 0 over all rounds.
    """

    number: int
    seed: Chat
    others: tuple[Chat, ...] = ()


class Recipe(Protocol):
    """What a file of this folder contains."""

    SUMMARY: str
    COMPARES: Literal["question", "whole"]
    ALIKE: tuple[float, float]
    NEEDS_JUDGE: bool
    Config: type[Frozen]

    def schema(self, config: Any) -> Json | None: ...

    def question(self, draw: Draw, config: Any, lessons: Sequence[str]) -> tuple[Message, ...]: ...

    def read(self, text: str, seed: Chat, config: Any) -> Made: ...


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        RecipeError: there is none; the hint offers the nearest.
    """
    return cast("Recipe", names.resolve(KIND, name))
