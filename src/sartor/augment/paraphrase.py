"""The same question in other words, with the answer that it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sartor.ask.reading import filled, object_of, schema_of
from sartor.augment import Draw
from sartor.augment.turns import exchange, question_of, remade, shown, told
from sartor.types import Chat, Frozen, Json, Message

SUMMARY = "the same question in other words"
COMPARES: Literal["question", "whole"] = "question"
ALIKE = (0.08, 0.9)  # what shares less was not said in other words, but about something else
NEEDS_JUDGE = False
RULES = (
    "You say questions in other words. The meaning, the language and every name and number stay the same; words, order "
    "and tone change. Answer with a JSON object with the key `question` and nothing else."
)
SHOWN = exchange(
    shown(question="When does the library open on Sundays?"),
    shown(question="At what time on a Sunday can I get into the library?"),
)


class Config(Frozen):
    """How it is said."""

    style: str = Field(default="", description="How the new words shall sound: 'as a hurried customer would write'.")


def schema(config: Config) -> Json | None:
    return schema_of(question="the same question in other words")


def question(draw: Draw, config: Config, lessons: Sequence[str]) -> tuple[Message, ...]:
    rules = f"{RULES}\nWrite it {config.style}." if config.style else RULES
    said = Message(role="user", content=shown(question=question_of(draw.seed)))
    return told(rules, draw.seed, lessons), *SHOWN, said


def read(text: str, seed: Chat, config: Config) -> Chat:
    return remade(seed, question=filled(object_of(text), "question"))
