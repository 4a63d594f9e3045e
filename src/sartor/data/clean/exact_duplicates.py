"""Examples that are there already, to the letter: the first of each stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field

from sartor.data.clean import Context, Outcome, dropped, kept
from sartor.types import Example, Frozen

SUMMARY = "examples that are there already, to the letter"
REASONS = ("exact_duplicate",)
SELECTS = False
WHOLE = False


class Config(Frozen):
    of: Literal["whole", "question"] = Field(
        default="whole", description="what must be the same: all, or the question alone, whose first answer then stays"
    )


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    first: dict[bytes, str] = {}
    for example in rows:
        digest = bytes.fromhex(example.digest if config.of == "whole" else example.prompt_digest)
        if digest not in first:
            first[digest] = example.id
            yield kept(example)
        else:
            what = "the same as" if config.of == "whole" else "asks the same as"
            yield dropped(example, "exact_duplicate", f"{what} {first[digest]}")
