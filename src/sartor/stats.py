"""How sure we may be: intervals, paired tests on the same items, correction for several tests, and power.

Pure functions on plain numbers. Whatever draws random numbers takes a seed, and the same values in another order give
the same answer. Bad input is a programming error and raises ValueError with the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sartor.types import Score

#: Up to this many non-zero differences the sign-flip test enumerates all 2**14 patterns: some milliseconds.
EXACT_SIGN_FLIPS = 14

#: Random numbers drawn at once: 8 MiB of int64, whatever the number of items.
BLOCK = 2**20

Test = Literal["mcnemar_exact", "sign_flip_exact", "sign_flip_monte_carlo"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval: low ≤ mean ≤ high, all in the unit of the values."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Paired:
    """What changes from a to b on the same items: the mean of b minus a, its interval, and a two-sided p-value.

    flips_up: items where b is higher · flips_down: items where b is lower · test: how p was computed.
    """

    difference: float
    low: float
    high: float
    p: float
    flips_up: int
    flips_down: int
    test: Test


def summarise(scores: Sequence[Score]) -> Interval:
    """The mean score with its 95 % interval: the `reduce` of every metric. The same scores always give the same one."""
    return mean_interval([score.value for score in scores], seed=0)


def mean_interval(values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int) -> Interval:
    """The mean of the values and its confidence interval.

    Values that are all 0 or 1 get the Wilson score interval, since a bootstrap has width 0 when all items agree, as if
    twenty failures of twenty proved that the twenty-first fails. Other values get the percentile bootstrap over items,
    which keeps that weakness where all of them are equal.

    Raises:
        ValueError: no values, a value that is not finite, a level outside (0, 1), fewer than two resamples.
    """
    checked = _finite("values", values)
    _demand_settings(level, resamples)
    if _binary(checked):
        return _wilson(checked, level)
    return _bootstrap(checked, level, resamples, np.random.default_rng(seed))


def paired(
    a: Sequence[float], b: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int
) -> Paired:
    """Compare b with a on the same items: a[i] and b[i] are two scores of item i.

    The interval is the percentile bootstrap over items. It has width 0 when all differences are equal: read p, which
    does not share that weakness. p comes from the exact McNemar test when all scores are 0 or 1, otherwise from a
    sign-flip permutation test on the mean difference: all patterns where there are few, else `resamples` random ones.

    Raises:
        ValueError: different lengths, no items, a score that is not finite, a level outside (0, 1), or fewer than two
            resamples.
    """
    first, second = _finite("a", a), _finite("b", b)
    if len(first) != len(second):
        raise ValueError(f"a and b are scores of the same items, got {len(first)} and {len(second)} of them")
    _demand_settings(level, resamples)
    differences = second - first
    flips_up, flips_down = int((differences > 0).sum()), int((differences < 0).sum())
    generator = np.random.default_rng(seed)
    interval = _bootstrap(differences, level, resamples, generator)
    test: Test
    if _binary(first) and _binary(second):
        test, p = "mcnemar_exact", _mcnemar(flips_up, flips_down)
    elif flips_up + flips_down <= EXACT_SIGN_FLIPS:
        test, p = "sign_flip_exact", _sign_flip_exact(differences)
    else:
        test, p = "sign_flip_monte_carlo", _sign_flip_monte_carlo(differences, resamples, generator)
    return Paired(interval.mean, interval.low, interval.high, p, flips_up, flips_down, test)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for being several (Holm 1979, step-down): compare each with the same alpha as if it were alone.

    Raises:
        ValueError: no p-values, or one outside [0, 1].
    """
    checked = _finite("p_values", p_values)
    if (checked < 0).any() or (checked > 1).any():
        raise ValueError(f"p-values lie in [0, 1], got {list(p_values)}")
    adjusted = np.empty_like(checked)
    highest = 0.0
    for rank, index in enumerate(np.argsort(checked, kind="stable")):
        highest = max(highest, min(1.0, float(checked[index]) * (len(checked) - rank)))
        adjusted[index] = highest
    return tuple(adjusted.tolist())


def minimum_detectable_effect(n: int, *, deviation: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest mean paired difference that n items show, with this power, in a two-sided test at alpha.

    `deviation` is the standard deviation of the paired differences. Before there are any: for 0/1 scores it is at most
    the square root of the share of items on which the two disagree. Normal approximation.

    Raises:
        ValueError: n below 1, a deviation that is negative or not finite, or not 0 < alpha < power < 1.
    """
    if n < 1:
        raise ValueError(f"n counts items and is at least 1, got {n}")
    return _standard_errors(power, alpha) * _deviation(deviation) / math.sqrt(n)


def needed_items(difference: float, deviation: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """How many items show a mean paired difference of this size: the inverse of `minimum_detectable_effect`.

    Raises:
        ValueError: a difference that is zero or not finite; otherwise as for the inverse.
    """
    if difference == 0 or not math.isfinite(difference):
        raise ValueError(f"no number of items shows a difference of {difference}")
    items = (_standard_errors(power, alpha) * _deviation(deviation) / difference) ** 2
    return max(1, math.ceil(items * (1 - 1e-12)))  # so that rounding alone never asks for one item more


def _wilson(values: Floats, level: float) -> Interval:
    """Wilson (1927). Clamped, because rounding may leave a bound 1e-17 outside."""
    n, mean = len(values), float(values.mean())
    z = NormalDist().inv_cdf((1 + level) / 2)
    scale = 1 + z**2 / n
    centre = (mean + z**2 / (2 * n)) / scale
    half = z / scale * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return Interval(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)))


def _bootstrap(values: Floats, level: float, resamples: int, generator: np.random.Generator) -> Interval:
    """Percentile bootstrap. Every draw is used twice, on the values sorted up and sorted down.

    The second use is a resample as good as the first, negatively correlated with it; and it makes the interval of the
    negated values the exact mirror image, so that b against a never contradicts a against b.
    """
    upwards, n = np.sort(values), len(values)
    downwards = upwards[::-1]
    means = []
    for rows in _blocks((resamples + 1) // 2, width=n):
        draws = generator.integers(0, n, size=(rows, n))
        means += [upwards[draws].mean(axis=1), downwards[draws].mean(axis=1)]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    mean = math.fsum(values.tolist()) / n
    return Interval(mean, min(mean, float(low)), max(mean, float(high)))  # equal values: only rounding parts the three


def _mcnemar(up: int, down: int) -> float:
    """Two-sided binomial test of the discordant pairs, in whole numbers: exact at any size."""
    n, fewer = up + down, min(up, down)
    term = tail = 1
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def _sign_flip_exact(differences: Floats) -> float:
    """Share of all sign patterns whose sum is at least as far from zero as the one observed."""
    sums = np.zeros(1)
    for size in _sizes(differences):
        sums = np.concatenate([sums + size, sums - size])
    return float((np.abs(sums) >= _threshold(differences)).mean())


def _sign_flip_monte_carlo(differences: Floats, resamples: int, generator: np.random.Generator) -> float:
    """The same from random patterns. The observed one counts among them (add-one), so that p is never zero."""
    sizes, threshold = _sizes(differences), _threshold(differences)
    extreme = 0
    for rows in _blocks(resamples, width=len(sizes)):
        signs = 2.0 * generator.integers(0, 2, size=(rows, len(sizes))) - 1.0
        extreme += int((np.abs(signs @ sizes) >= threshold).sum())
    return (extreme + 1) / (resamples + 1)


def _sizes(differences: Floats) -> Floats:
    """The non-zero differences without their signs, sorted: the order of the items must not matter."""
    return np.sort(np.abs(differences[differences != 0]))


def _threshold(differences: Floats) -> float:
    """The observed distance of the sum from zero, less what rounding may take from an equal sum of another pattern."""
    return abs(math.fsum(differences.tolist())) - 1e-12 * float(np.abs(differences).sum())


def _blocks(total: int, *, width: int) -> Iterator[int]:
    """Split `total` rows of `width` numbers into blocks of bounded memory: the rows of each."""
    rows = max(1, BLOCK // width)
    for start in range(0, total, rows):
        yield min(rows, total - start)


def _standard_errors(power: float, alpha: float) -> float:
    """How many standard errors apart from zero an effect must be to be found."""
    if not 0 < alpha < power < 1:
        raise ValueError(f"0 < alpha < power < 1 must hold, got alpha {alpha} and power {power}")
    return NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)


def _deviation(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"a standard deviation is finite and not negative, got {value}")
    return value


def _finite(name: str, values: Sequence[float]) -> Floats:
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1 or not checked.size:
        raise ValueError(f"{name} must be one or more numbers, got {values!r}")
    if not np.isfinite(checked).all():
        bad = {int(index): float(checked[index]) for index in np.flatnonzero(~np.isfinite(checked))[:10]}
        raise ValueError(f"{name} must be finite, got (index: value) {bad}")
    return checked


def _binary(values: Floats) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _demand_settings(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, got {level}")
    if resamples < 2:
        raise ValueError(f"at least two resamples are needed, got {resamples}")
