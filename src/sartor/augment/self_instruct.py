"""New examples of the same kind, about other things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sartor.ask.reading import filled, object_of, schema_of
from sartor.augment import Draw
from sartor.augment.turns import answer_of, question_of, remade, shown, told
from sartor.types import Chat, Frozen, Json, Message

SUMMARY = "new examples of the same kind, about other things"
COMPARES: Literal["question", "whole"] = "question"
#: Nothing that a seed says needs to come back; what shares two thirds of it is the seed in a new coat.
ALIKE = (0.0, 0.65)
NEEDS_JUDGE = False
RULES = (
    "You write examples for a data set. Each example is a JSON object with the keys `question` and `answer`. "
    "A new example is of the same kind as those before, in the same form and language, but about something else. "
    "Its answer is right. Write the JSON object and nothing else."
)
REQUEST = "Write a new example."


class Config(Frozen):
    """How they are asked for."""

    about: str = Field(default="", description="What the examples are about, in your words: it is told to the model.")


def schema(config: Config) -> Json | None:
    return schema_of(question="what is asked", answer="the right answer to it")


def question(draw: Draw, config: Config, lessons: Sequence[str]) -> tuple[Message, ...]:
    """Examples as if the model had written them: small models follow what they have said."""
    rules = f"{RULES}\n\n{config.about}" if config.about else RULES
    messages = [told(rules, draw.seed, lessons)]
    for example in (*draw.others, draw.seed):
        said = shown(question=question_of(example), answer=answer_of(example))
        messages += [Message(role="user", content=REQUEST), Message(role="assistant", content=said)]
    return (*messages, Message(role="user", content=REQUEST))


def read(text: str, seed: Chat, config: Config) -> Chat:
    found = object_of(text)
    return remade(seed, question=filled(found, "question"), answer=filled(found, "answer"))
