"""Pairs of answers: the seed's, which is better, and one that is made to be worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sartor.ask.reading import Unreadable, filled, object_of, schema_of
from sartor.augment import Draw
from sartor.augment.turns import answer_of, exchange, paired, question_of, shown, told
from sartor.formats.fields import seen
from sartor.types import Chat, Frozen, Json, Message, Pair

SUMMARY = "pairs of the seed's answer and a worse one"
COMPARES: Literal["question", "whole"] = "whole"
ALIKE = (0.0, 0.999)
NEEDS_JUDGE = False
RULES = (
    "You write an answer that is worse than the given one, as a careless writer would. It looks right at first, and "
    "has this flaw: {flaw}. Do not mention the flaw. Answer with a JSON object with the key `answer` and nothing else."
)
SHOWN = exchange(
    shown(question="When is the library open?", answer="On weekdays from 9 to 17."),
    shown(answer="Every day from 9 to 17."),
)


class Config(Frozen):
    """What is wrong with the worse answers."""

    flaws: tuple[str, ...] = Field(
        default=("a wrong fact", "it leaves out what matters most", "it does not keep to what was asked", "it rambles"),
        min_length=1,
        description="They are asked for in turn.",
    )


def schema(config: Config) -> Json | None:
    return schema_of(answer="the worse answer")


def question(draw: Draw, config: Config, lessons: Sequence[str]) -> tuple[Message, ...]:
    rules = RULES.replace("{flaw}", config.flaws[draw.number % len(config.flaws)])
    said = shown(question=question_of(draw.seed), answer=answer_of(draw.seed))
    return told(rules, draw.seed, lessons), *SHOWN, Message(role="user", content=said)


def read(text: str, seed: Chat, config: Config) -> Pair:
    answer = filled(object_of(text), "answer")
    if answer == answer_of(seed).strip():
        raise Unreadable("same_answer", f"saw {seen(answer)} again, expected a worse answer")
    return paired(seed, answer)
