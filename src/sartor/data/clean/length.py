"""Fixed bounds on length: in characters, words, or tokens of the model. Each is off until it is set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from pydantic import Field, model_validator

from sartor.data.clean import Context, Outcome, dropped, kept
from sartor.data.clean.texts import Part, part_of
from sartor.errors import RecipeError
from sartor.types import Example, Frozen

SUMMARY = "drops rows that are shorter or longer than fixed bounds"
REASONS = ("too_short", "too_long")
SELECTS = False
WHOLE = False


class Config(Frozen):
    of: Part = Field(default="answer", description="which text is measured")
    unit: Literal["characters", "words", "tokens"] = Field(
        default="characters", description="what is counted; tokens are those of the whole row, and need a model"
    )
    shortest: int = Field(default=0, ge=0, description="the fewest; 0 for no bound")
    longest: int = Field(default=0, ge=0, description="the most; 0 for no bound")

    @model_validator(mode="after")
    def _in_order(self) -> Config:
        if self.longest and self.longest < self.shortest:
            raise ValueError(f"longest is {self.longest}, below shortest, which is {self.shortest}")
        return self


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    measure = _measure(config, context)
    what = f"{config.unit} of the {'row' if config.unit == 'tokens' or config.of == 'whole' else config.of}"
    for example in rows:
        found = measure(example)
        if found < config.shortest:
            yield dropped(example, "too_short", f"{found:,} {what}, at least {config.shortest:,}")
        elif config.longest and found > config.longest:
            yield dropped(example, "too_long", f"{found:,} {what}, at most {config.longest:,}")
        else:
            yield kept(example)


def _measure(config: Config, context: Context) -> Callable[[Example], int]:
    if config.unit == "tokens":
        if context.count_tokens is None:
            raise RecipeError("length in tokens needs a model, and none is named", hint="name one, or count words")
        return context.count_tokens
    if config.unit == "words":
        return lambda example: len(part_of(example, config.of).split())
    return lambda example: len(part_of(example, config.of))
