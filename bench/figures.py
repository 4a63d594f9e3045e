"""Numbers from runs: rates, paired ratios with their intervals, and whether the machine was steady meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Json = dict[str, Any]

MAX_DRIFT, MAX_FOREIGN, MAX_STEAL = 0.05, 0.02, 0.01
RESAMPLES = 10_000
ENOUGH = 5  # repeats


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
    """Median over repeats of ours / theirs, with its 95 % bootstrap interval over repeats (percentiles, seed 0)."""
    ratios = np.asarray(ours) / np.asarray(theirs)
    chosen = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[chosen], axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


def ratio_words(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """`2.50 × [2.41, 2.63]`, with no interval for fewer than `ENOUGH` pairs: it would be their range, not 95 %.

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
