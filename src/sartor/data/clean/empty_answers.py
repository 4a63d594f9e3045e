"""Answers with nothing in them: white space, marks alone, or what a broken export writes for a missing value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from sartor.data.clean import Context, Outcome, dropped, kept
from sartor.data.clean.texts import answer_of
from sartor.types import Chat, Example, Frozen, Pair, Unpaired

SUMMARY = "drops answers that are empty, marks alone, or a placeholder"
REASONS = ("empty_answer", "placeholder")
SELECTS = False
WHOLE = False


class Config(Frozen):
    placeholders: tuple[str, ...] = Field(
        default=(
            "nan",
            "undefined",
            "[deleted]",
            "[removed]",
            "todo",
            "tbd",
            "lorem ipsum",
            "<answer>",
            "[answer]",
            "null",
        ),
        description="answers that stand for a missing one, in small letters",
    )
    marks: bool = Field(default=True, description="drop answers without any letter, digit or symbol, such as `...`")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    for example in rows:
        answer = answer_of(example).strip()
        if _calls(example):
            yield kept(example)
        elif not answer or (config.marks and all(mark in ".…,;:-–—_?!*#\"'` \n\t" for mark in answer)):
            yield dropped(example, "empty_answer", "nothing but white space and marks" if answer else "nothing")
        elif answer.lower() in config.placeholders:
            yield dropped(example, "placeholder", f"the answer is a placeholder of {len(answer)} characters")
        else:
            yield kept(example)


def _calls(example: Example) -> bool:
    """Whether the answer is a call of a tool: then there need not be any text."""
    if isinstance(example, Chat):
        return bool(example.messages[-1].tool_calls)
    if isinstance(example, Pair):
        return bool(example.chosen.tool_calls)
    return isinstance(example, Unpaired) and bool(example.answer.tool_calls)
