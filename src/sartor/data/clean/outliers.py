"""Examples that are far shorter or longer than the others: often cut, pasted twice, or not of this data set at all.

Lengths of texts are skewed, so their logarithms are compared. How far is far, is told by the median and by the median
distance from it, which a few outliers cannot move (Iglewicz and Hoaglin's modified z-score, whose usual bound is 3.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import Part, part_of
from sartor.errors import DataError
from sartor.types import Example, Frozen

SUMMARY = "examples far shorter or longer than the others"
REASONS = ("too_short", "too_long")
SELECTS = True
WHOLE = True

#: Below so many examples nobody can tell what is usual.
FEWEST = 20
#: The median distance of a normal distribution, in standard deviations.
_NORMAL = 0.6745
#: The least spread, as a share of the length: where nearly all are as long, a tenth more is no outlier.
_SPREAD = 0.1


class Config(Frozen):
    action: Literal["drop", "report"] = Field(default="drop", description="drop them, or tell of them")
    of: Part = Field(default="whole", description="what is measured: the question, the answer, or all")
    unit: Literal["characters", "tokens"] = Field(
        default="characters", description="tokens: of the whole example as the model sees it, whatever `of` is"
    )
    deviations: float = Field(default=3.5, gt=0.0, description="how many robust standard deviations are usual")
    lowest: float = Field(default=0.0, ge=0.0, lt=0.5, description="this share of the examples, the shortest, is out")
    highest: float = Field(default=0.0, ge=0.0, lt=0.5, description="this share of the examples, the longest, is out")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    """See the contract.

    Raises:
        DataError: tokens shall be counted, and no model is at hand.
    """
    measure = _measure(config, context)
    low, high, usual = _bounds(np.fromiter(map(measure, rows), np.int64), config)
    for example in rows:
        length = measure(example)
        if low <= length <= high:
            yield kept(example)
            continue
        reason = "too_short" if length < low else "too_long"
        detail = f"{length:,} {config.unit}; from {low:,.0f} to {high:,.0f} are usual, half have {usual:,.0f} or less"
        if config.action == "drop":
            yield dropped(example, reason, detail)
        else:
            yield kept(example, entry_of(example, "flagged", reason, detail))


def _measure(config: Config, context: Context) -> Callable[[Example], int]:
    if config.unit == "characters":
        return lambda example: len(part_of(example, config.of))
    if context.count_tokens is None:
        raise DataError(
            "outliers shall count tokens, and no model is at hand", hint="name a model, or take `unit: characters`"
        )
    return context.count_tokens


def _bounds(lengths: np.ndarray, config: Config) -> tuple[float, float, float]:
    """The shortest and the longest that is usual, and the median."""
    if len(lengths) < FEWEST:
        return 0.0, float("inf"), 0.0
    logarithms = np.log1p(lengths)
    middle = float(np.median(logarithms))
    spread = max(float(np.median(np.abs(logarithms - middle))) / _NORMAL, _SPREAD)
    low, high = np.expm1(middle - config.deviations * spread), np.expm1(middle + config.deviations * spread)
    least, most = np.quantile(lengths, [config.lowest, 1.0 - config.highest])
    return float(max(low, least)), float(min(high, most)), float(np.median(lengths))
