"""A question that looks almost like the seed's and has another answer: what a model must not confuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sartor.ask.reading import Unreadable, filled, object_of, schema_of
from sartor.augment import Draw
from sartor.augment.turns import answer_of, exchange, question_of, remade, shown, told
from sartor.formats.fields import seen
from sartor.types import Chat, Frozen, Json, Message

SUMMARY = "a question that looks like the seed's and has another answer"
COMPARES: Literal["question", "whole"] = "question"
ALIKE = (0.15, 0.97)  # nearness is the point
NEEDS_JUDGE = False
RULES = (
    "You change a question as little as possible, so that its right answer becomes another one. Answer with a JSON "
    "object with the keys `question` and `answer` and nothing else: the changed question and its right answer, in the "
    "form of the old one."
)
SHOWN = exchange(
    shown(question="When does the library open on Sundays?", answer="At 10."),
    shown(question="When does the library close on Sundays?", answer="At 16."),
)


class Config(Frozen):
    """Nothing can be set."""


def schema(config: Config) -> Json | None:
    return schema_of(question="the changed question", answer="its right answer, which is another one")


def question(draw: Draw, config: Config, lessons: Sequence[str]) -> tuple[Message, ...]:
    answers = dict.fromkeys(answer_of(example) for example in draw.others if answer_of(example) != answer_of(draw.seed))
    others = f"\nOther answers that questions have here: {', '.join(map(repr, answers))}" if answers else ""
    said = shown(question=question_of(draw.seed), answer=answer_of(draw.seed))
    return told(RULES + others, draw.seed, lessons), *SHOWN, Message(role="user", content=said)


def read(text: str, seed: Chat, config: Config) -> Chat:
    found = object_of(text)
    answer = filled(found, "answer")
    if answer.casefold() == answer_of(seed).strip().casefold():
        raise Unreadable("same_answer", f"saw {seen(answer)} again, expected another answer")
    return remade(seed, question=filled(found, "question"), answer=answer)
