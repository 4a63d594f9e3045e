"""The question into another language and back: what it asks stays, how it is said does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sartor.ask.reading import filled, object_of, schema_of
from sartor.augment import Draw
from sartor.augment.turns import question_of, remade, shown, told
from sartor.types import Chat, Frozen, Json, Message

SUMMARY = "the question translated into another language and back"
COMPARES: Literal["question", "whole"] = "question"
ALIKE = (0.08, 0.9)  # what shares less was not said in other words, but about something else
NEEDS_JUDGE = False
RULES = (
    "Translate the question into {language}. Then translate your translation back into the language of the question, "
    "without looking at the question. Answer with a JSON object with the keys `translation` and `back` and nothing "
    "else."
)


class Config(Frozen):
    """Which way it goes."""

    language: str = Field(default="German", description="The language between.")


def schema(config: Config) -> Json | None:
    return schema_of(translation=f"the question in {config.language}", back="the translation, translated back")


def question(draw: Draw, config: Config, lessons: Sequence[str]) -> tuple[Message, ...]:
    rules = RULES.replace("{language}", config.language)
    said = Message(role="user", content=shown(question=question_of(draw.seed)))
    return told(rules, draw.seed, lessons), said


def read(text: str, seed: Chat, config: Config) -> Chat:
    found = object_of(text)
    filled(found, "translation")  # one who left it out did not translate back
    return remade(seed, question=filled(found, "back"))
