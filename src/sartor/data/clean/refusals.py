"""Answers that refuse: "As an AI language model, I cannot…", in ten languages.

Who trains on them gets a model that refuses. Where refusing is what shall be learnt, do not use this cleaner, or let it
only tell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, field_validator

from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import answer_of
from sartor.data.finding.patterns import lines_of
from sartor.types import Example, Frozen, Text

SUMMARY = "drops answers in which an assistant refuses or speaks of itself as a model"
REASONS = ("refusal",)
SELECTS = False
WHOLE = False

#: Characters at the beginning of an answer in which a refusal stands: a story may quote one further down.
OPENING = 300


class Config(Frozen):
    action: Literal["drop", "report"] = Field(default="drop", description="drop the row, or only tell")
    more: tuple[str, ...] = Field(default=(), description="further patterns: regular expressions, case ignored")

    @field_validator("more")
    @classmethod
    def _compile(cls, more: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in more:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return more


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    patterns = [*_shipped(), *(("yours", re.compile(pattern, re.IGNORECASE)) for pattern in config.more)]
    for example in rows:
        opening = "" if isinstance(example, Text) else answer_of(example)[:OPENING].replace("’", "'")
        language = next((name for name, pattern in patterns if pattern.search(opening)), "")
        if not language:
            yield kept(example)
        elif config.action == "drop":
            yield dropped(example, "refusal", f"a pattern: {language}")
        else:
            yield kept(example, entry_of(example, "flagged", "refusal", f"a pattern: {language}"))


@functools.cache
def _shipped() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """The patterns of the data file: `language: pattern` on each line."""
    parts = (line.partition(": ") for line in lines_of("refusals.txt"))
    return tuple((language, re.compile(pattern, re.IGNORECASE)) for language, _, pattern in parts)
