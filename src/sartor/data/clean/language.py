"""Languages: rows that are written in others than the wanted ones are dropped. Too short a text is never judged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from pydantic import Field, field_validator

from sartor.data.clean import Context, Outcome, dropped, kept
from sartor.data.clean.texts import Part, part_of
from sartor.data.finding.languages import language_of
from sartor.types import Example, Frozen

SUMMARY = "drops rows in other languages than the wanted ones, or than most rows are in"
REASONS = ("language",)
SELECTS = False
WHOLE = True


class Config(Frozen):
    keep: tuple[str, ...] = Field(
        default=(), description="ISO 639-1 codes to keep, as en, de; none: the language that most rows are in"
    )
    of: Part = Field(default="answer", description="which text is judged")
    surest: float = Field(default=0.6, ge=0, le=1, description="how sure the answer must be, for a row to be dropped")

    @field_validator("keep")
    @classmethod
    def _codes(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        for code in keep:
            if not re.fullmatch(r"[a-z]{2,3}", code):
                raise ValueError(f"{code!r} is no language code: two small letters, such as en or de")
        return keep


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    def language(example: Example) -> str:
        return language_of(part_of(example, config.of), config.surest)

    wanted = config.keep or _most(map(language, rows))
    for example in rows:
        found = language(example)
        if found and wanted and found not in wanted:
            yield dropped(example, "language", f"the {config.of} is in {found}, kept are {', '.join(wanted)}")
        else:
            yield kept(example)


def _most(languages: Iterable[str]) -> tuple[str, ...]:
    """The most frequent one, of two the first by name; none where no text could be judged."""
    counts = Counter(language for language in languages if language)
    return (min(counts, key=lambda language: (-counts[language], language)),) if counts else ()
