"""A better answer to the same question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sartor.ask.reading import filled, object_of, schema_of
from sartor.augment import Draw
from sartor.augment.turns import answer_of, exchange, question_of, remade, shown, told
from sartor.types import Chat, Frozen, Json, Message

SUMMARY = "a better answer to the same question"
COMPARES: Literal["question", "whole"] = "whole"
ALIKE = (0.0, 0.999)  # one changed word may be the improvement
NEEDS_JUDGE = False
RULES = (
    "You improve answers. The new answer is right, complete, clear and no longer than it needs to be; what is right in "
    "the old one stays. Answer with a JSON object with the key `answer` and nothing else."
)
SHOWN = exchange(
    shown(question="When does the library open?", answer="early, 9 i think"),
    shown(answer="The library opens at 9 o'clock."),
)


class Config(Frozen):
    """What is better."""

    better: str = Field(default="", description="What makes an answer good here, in your words.")


def schema(config: Config) -> Json | None:
    return schema_of(answer="the better answer")


def question(draw: Draw, config: Config, lessons: Sequence[str]) -> tuple[Message, ...]:
    rules = f"{RULES}\n{config.better}" if config.better else RULES
    said = shown(question=question_of(draw.seed), answer=answer_of(draw.seed))
    return told(rules, draw.seed, lessons), *SHOWN, Message(role="user", content=said)


def read(text: str, seed: Chat, config: Config) -> Chat:
    return remade(seed, answer=filled(object_of(text), "answer"))
