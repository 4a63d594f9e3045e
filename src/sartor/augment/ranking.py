"""Pairs of answers: the seed's and a second one to the same question; a judge says which is the better one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sartor.ask.reading import Unreadable
from sartor.augment import Draw
from sartor.augment.turns import answer_of, paired
from sartor.errors import FieldError
from sartor.formats import fields
from sartor.types import Chat, Frozen, Json, Message, Pair

SUMMARY = "pairs of the seed's answer and a second one, put in order by a judge"
COMPARES: Literal["question", "whole"] = "whole"
ALIKE = (0.0, 0.999)
NEEDS_JUDGE = True


class Config(Frozen):
    """Nothing can be set."""


def schema(config: Config) -> Json | None:
    return None


def question(draw: Draw, config: Config, lessons: Sequence[str]) -> tuple[Message, ...]:
    """The question itself, as a model meets it that is to be tuned."""
    return draw.seed.prompt


def read(text: str, seed: Chat, config: Config) -> Pair:
    try:
        answer = fields.clean(text, "answer").strip()
    except FieldError as error:
        raise Unreadable("not_text", error.message) from error
    if not answer or answer == answer_of(seed).strip():
        raise Unreadable("same_answer", f"saw {fields.seen(answer)}, expected an answer other than the seed's")
    return paired(seed, answer)
