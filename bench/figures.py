"""Numbers from runs: rates, paired ratios with their intervals, and whether the machine was steady meanwhile."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Json = dict[str, Any]

MAX_DRIFT, MAX_FOREIGN, MAX_STEAL = 0.05, 0.02, 0.01
ENOUGH = 5  # repeats
COVERED = 0.93  # of an interval, at the least: that of five repeats, which is their range, holds the median with 0.9375


def plateau(run: Json) -> float:
    """The machine's matrix products over the run, FLOP/s: the mean of before and after."""
    return float(0.5 * (run["plateau_before"] + run["plateau_after"]))


def drift(run: Json) -> float:
    """How far the machine's matrix products moved over the run, as a share."""
    before, after = run["plateau_before"], run["plateau_after"]
    return float(abs(after - before) / max(before, after))


def steady(run: Json) -> bool:
    """Whether the machine was ours and stayed as fast as it was."""
    return drift(run) <= MAX_DRIFT and run["foreign"] <= MAX_FOREIGN and run["steal"] <= MAX_STEAL


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median over repeats of ours / theirs, and the interval that holds the true one, whatever the distribution.

    It reaches from the kth smallest to the kth largest; the true median is outside where fewer than k ratios are on
    one side of it, which a coin decides for each. k is the largest that keeps the interval at `COVERED`.
    """
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    count, outside, left_out = len(ratios), 2.0 / 2 ** len(ratios), 0
    while outside + 2.0 * math.comb(count, left_out + 1) / 2**count <= 1.0 - COVERED:
        left_out += 1
        outside += 2.0 * math.comb(count, left_out) / 2**count
    return statistics.median(ratios), ratios[left_out], ratios[-1 - left_out]


def ratio_words(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """`2.50 × [2.41, 2.63]`, with no interval for fewer than `ENOUGH` pairs: their range may well miss the median.

    Repeats pair in their order; one that is missing on a side leaves no pair.
    """
    num_pairs = min(len(ours), len(theirs))
    if not num_pairs:
        return "–"
    middle, low, high = paired_ratio(ours[:num_pairs], theirs[:num_pairs])
    if num_pairs < ENOUGH:
        return f"{middle:.2f} × ({num_pairs} repeat{'s' * (num_pairs > 1)}, no interval)"
    return f"{middle:.2f} × [{low:.2f}, {high:.2f}]"


def doubts(runs: Sequence[Json], repeats: int) -> Iterator[str]:
    """Why these figures must not be quoted, if so, in few words."""
    unsteady = sum(not steady(run) for run in runs)
    if unsteady:
        yield f"in {unsteady} of {len(runs)} runs the machine was not idle or not steady"
    if repeats < ENOUGH:
        yield "fewer than five repeats"


def cautions(runs: Sequence[Json], repeats: int) -> Iterator[str]:
    """The doubts as a page says them, and how unsteady the machine was at its worst."""
    yield from (f"**Not to be quoted: {doubt}.**" for doubt in doubts(runs, repeats))
    if not all(map(steady, runs)):
        yield (
            f"At its worst: plateau drift {max(map(drift, runs)):.0%}, other processes "
            f"{max(run['foreign'] for run in runs):.0%}, steal {max(run['steal'] for run in runs):.0%}."
        )


def spread(values: Iterable[float], form: str) -> str:
    """Median, lowest and highest."""
    ranked = sorted(values)
    return f"{statistics.median(ranked):{form}} ({ranked[0]:{form}}–{ranked[-1]:{form}})"


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def header(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [line(cells), "|" + "---|" * len(cells)]
