"""Statistics against values worked out by hand, and against what they promise: coverage, error rate, symmetry."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor import stats
from sartor.types import Score

SCORES = st.floats(0, 1)
ITEMS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=30)
P_VALUES = st.lists(SCORES, min_size=1, max_size=12)


def flips(*, up: int, down: int, same: int) -> tuple[list[float], list[float]]:
    """0/1 scores of two arms with so many flips each way."""
    return [0.0] * up + [1.0] * (down + same), [1.0] * up + [0.0] * down + [1.0] * same


# mean_interval


def test_wilson_by_hand() -> None:
    none_right = stats.mean_interval([0.0] * 20, seed=0)
    assert (none_right.mean, none_right.low) == (0.0, 0.0)
    assert none_right.high == pytest.approx(0.16112516, abs=1e-8)  # z² / (n + z²)
    half_right = stats.mean_interval([0.0, 1.0] * 5, seed=0)
    assert half_right.mean == 0.5
    assert half_right.low == pytest.approx(0.23659309, abs=1e-8)  # 0.5 ∓ z / (2 √(n + z²))
    assert half_right.high == pytest.approx(0.76340691, abs=1e-8)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_wilson_covers(share: float) -> None:
    n = 40
    covered = 0.0
    for right in range(n + 1):
        interval = stats.mean_interval([1.0] * right + [0.0] * (n - right), seed=0)
        if interval.low <= share <= interval.high:
            covered += math.comb(n, right) * share**right * (1 - share) ** (n - right)
    assert 0.92 < covered < 0.99


def test_bootstrap_covers() -> None:
    generator = np.random.default_rng(5)
    samples = [generator.uniform(0, 1, size=40) for _ in range(300)]
    intervals = [stats.mean_interval(sample, resamples=400, seed=1) for sample in samples]
    covered = sum(interval.low <= 0.5 <= interval.high for interval in intervals)
    assert 0.90 <= covered / len(samples) <= 0.985


def test_bootstrap_has_the_width_of_the_normal_interval() -> None:
    values = np.random.default_rng(2).uniform(0, 1, size=400)
    interval = stats.mean_interval(values, seed=0)
    expected = 2 * 1.959964 * values.std() / math.sqrt(400)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.03)


def test_blocks_are_bounded_and_whole() -> None:
    assert list(stats._blocks(10, width=stats.BLOCK // 4)) == [4, 4, 2]
    assert list(stats._blocks(3, width=stats.BLOCK * 5)) == [1, 1, 1]


def test_equal_values_that_are_not_binary_collapse_without_rounding_apart() -> None:
    assert stats.mean_interval([0.1] * 7, seed=0) == stats.Interval(
        pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1)
    )


def test_a_wider_level_gives_a_wider_interval() -> None:
    for values in ([0.0, 1.0, 1.0, 1.0], [0.1, 0.5, 0.7, 0.9]):
        narrow = stats.mean_interval(values, level=0.5, seed=0)
        wide = stats.mean_interval(values, level=0.99, seed=0)
        assert wide.low < narrow.low < narrow.high < wide.high


@settings(deadline=None, max_examples=50)
@given(st.lists(SCORES, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_interval_is_in_order_in_bounds_and_order_free(values: list[float], random) -> None:
    interval = stats.mean_interval(values, resamples=50, seed=3)
    assert -1e-12 <= interval.low <= interval.mean <= interval.high <= 1 + 1e-12
    shuffled = random.sample(values, len(values))
    assert stats.mean_interval(shuffled, resamples=50, seed=3) == interval


def test_the_seed_decides() -> None:
    values = [0.1, 0.4, 0.45, 0.9, 0.3]
    one, same, other = (stats.mean_interval(values, resamples=51, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_summarise_is_the_interval_of_the_values() -> None:
    scores = [Score(value=value) for value in (0.0, 0.25, 1.0)]
    assert stats.summarise(scores) == stats.mean_interval([0.0, 0.25, 1.0], seed=0)
    with pytest.raises(ValueError, match=r"\[\]"):
        stats.summarise([])


# paired


def test_mcnemar_by_hand() -> None:
    a, b = flips(up=10, down=2, same=30)
    result = stats.paired(a, b, seed=0)
    assert result.p == 0.03857421875  # 2 · (1 + 12 + 66) / 4096
    assert result.test == "mcnemar_exact"
    assert (result.flips_up, result.flips_down) == (10, 2)
    assert result.difference == pytest.approx(8 / 42)
    assert 0 < result.low < 8 / 42 < result.high < 1


@pytest.mark.parametrize(("up", "down", "p"), [(0, 0, 1.0), (3, 3, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 6, 0.03125)])
def test_mcnemar_small_cases(up: int, down: int, p: float) -> None:
    assert stats.paired(*flips(up=up, down=down, same=1), seed=0).p == p


def test_mcnemar_of_many_pairs_is_exact_and_does_not_overflow() -> None:
    tail = sum(math.comb(500, k) for k in range(236))
    assert stats.paired(*flips(up=265, down=235, same=0), resamples=2, seed=0).p == float(Fraction(tail, 2**499))
    assert stats._mcnemar(5000, 0) == 0.0
    assert stats._mcnemar(1000, 0) == 2.0**-999


def test_no_discordant_pair_decides_nothing() -> None:
    result = stats.paired([0.0, 1.0, 1.0], [0.0, 1.0, 1.0], seed=0)
    assert result == stats.Paired(0.0, 0.0, 0.0, 1.0, 0, 0, "mcnemar_exact")


def test_sign_flip_by_hand() -> None:
    # Differences 0.1, 0.2, 0.4: only all up and all down lie as far out, 2 of 8 patterns; the equal item is no pattern.
    result = stats.paired([0.5, 0.5, 0.5, 0.5], [0.6, 0.7, 0.9, 0.5], seed=0)
    assert (result.p, result.test) == (0.25, "sign_flip_exact")
    assert (result.flips_up, result.flips_down) == (3, 0)
    # -0.1, 0.2, 0.4: sums 0.5 and 0.7 and their mirrors, 4 of 8, although 0.4 + 0.2 - 0.1 is no exact sum of floats.
    assert stats.paired([0.5, 0.5, 0.5], [0.4, 0.7, 0.9], seed=0).p == 0.5


def test_sign_flip_keeps_its_error_rate() -> None:
    sizes = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.45])
    zeros = np.zeros(len(sizes))
    patterns = itertools.product((-1, 1), repeat=len(sizes))
    p_values = [stats.paired(zeros, sizes * np.array(signs), resamples=2, seed=0).p for signs in patterns]
    for alpha in (0.02, 0.05, 0.2, 0.5):
        assert np.mean([p <= alpha for p in p_values]) <= alpha


def test_sign_flip_monte_carlo_agrees_with_all_patterns() -> None:
    differences = np.random.default_rng(4).normal(0.15, 0.3, size=15)
    result = stats.paired(np.zeros(15), differences, seed=0)
    assert result.test == "sign_flip_monte_carlo"
    assert result.p == pytest.approx(stats._sign_flip_exact(differences), abs=0.01)
    assert 0.01 < result.p < 0.5


def test_sign_flip_monte_carlo_is_never_zero() -> None:
    result = stats.paired([0.25] * 60, [0.75] * 60, resamples=99, seed=0)
    assert result.p == 0.01
    assert (result.low, result.difference, result.high) == (0.5, 0.5, 0.5)


def test_mixed_scores_are_not_taken_for_binary() -> None:
    assert stats.paired([0.0, 1.0], [0.5, 1.0], seed=0).test == "sign_flip_exact"


@settings(deadline=None, max_examples=100)
@given(ITEMS)
def test_paired_is_antisymmetric(items: list[tuple[float, float]]) -> None:
    a, b = zip(*items, strict=True)
    there, back = (stats.paired(*pair, resamples=60, seed=7) for pair in ((a, b), (b, a)))
    assert back.difference == -there.difference
    assert (back.low, back.high) == (pytest.approx(-there.high), pytest.approx(-there.low))
    assert (back.p, back.test) == (there.p, there.test)
    assert (back.flips_up, back.flips_down) == (there.flips_down, there.flips_up)
    assert 0 < there.p <= 1


@settings(deadline=None, max_examples=50)
@given(ITEMS, st.randoms(use_true_random=False))
def test_paired_is_order_free(items: list[tuple[float, float]], random) -> None:
    shuffled = random.sample(items, len(items))
    one, other = (stats.paired(*zip(*order, strict=True), resamples=60, seed=7) for order in (items, shuffled))
    assert one == other


def test_paired_covers() -> None:
    generator = np.random.default_rng(8)
    covered = 0
    for _ in range(200):
        hard = generator.uniform(0, 0.8, size=50)
        result = stats.paired(hard, hard + generator.uniform(0, 0.2, size=50), resamples=300, seed=0)
        covered += result.low <= 0.1 <= result.high
    assert 0.88 <= covered / 200 <= 0.99


# holm


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert stats.holm([0.5, 0.9]) == (1.0, 1.0)
    assert stats.holm([0.04]) == (0.04,)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_lies_between_nothing_and_bonferroni_and_keeps_the_order(p_values: list[float], random) -> None:
    adjusted = stats.holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values))
    for (p, q), (other_p, other_q) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (q - other_q) * (p - other_p) >= 0
        assert p != other_p or q == other_q
    order = random.sample(range(len(p_values)), len(p_values))
    assert stats.holm([p_values[index] for index in order]) == tuple(adjusted[index] for index in order)


# power


def test_power_by_hand() -> None:
    # (1.959964 + 0.841621) · 0.5 / √100
    assert stats.minimum_detectable_effect(100, deviation=0.5) == pytest.approx(0.14007926, abs=1e-8)
    assert stats.needed_items(0.1, 0.5) == 197  # 196.22
    assert stats.needed_items(-0.1, 0.5) == 197
    assert stats.needed_items(0.5, 0.0) == 1


@given(st.integers(1, 10**6), st.floats(1e-3, 1))
def test_needed_items_inverts_the_effect(n: int, deviation: float) -> None:
    assert stats.needed_items(stats.minimum_detectable_effect(n, deviation=deviation), deviation) == n


@given(st.floats(1e-3, 1), st.floats(1e-3, 1))
def test_needed_items_are_enough_and_none_too_many(difference: float, deviation: float) -> None:
    n = stats.needed_items(difference, deviation, power=0.9, alpha=0.01)
    assert stats.minimum_detectable_effect(n, deviation=deviation, power=0.9, alpha=0.01) <= difference * (1 + 1e-9)
    if n > 1:
        assert stats.minimum_detectable_effect(n - 1, deviation=deviation, power=0.9, alpha=0.01) > difference


def test_power_is_what_it_says() -> None:
    n, deviation = 60, 0.4
    effect = stats.minimum_detectable_effect(n, deviation=deviation)
    generator = np.random.default_rng(6)
    zeros = np.zeros(n)
    found = [
        stats.paired(zeros, generator.normal(effect, deviation, size=n), resamples=199, seed=0).p <= 0.05
        for _ in range(300)
    ]
    assert 0.72 <= np.mean(found) <= 0.88


# bad input


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: stats.mean_interval([], seed=0), r"values .*\[\]"),
        (lambda: stats.mean_interval([[0.5, 1.0]], seed=0), r"\[\[0.5, 1.0\]\]"),
        (lambda: stats.mean_interval([0.5, math.nan], seed=0), r"\{1: nan\}"),
        (lambda: stats.mean_interval([0.5], level=95, seed=0), "95"),
        (lambda: stats.mean_interval([0.5], resamples=1, seed=0), "got 1"),
        (lambda: stats.paired([], [], seed=0), r"a .*\[\]"),
        (lambda: stats.paired([1.0], [1.0, 0.0], seed=0), "1 and 2"),
        (lambda: stats.paired([1.0], [math.inf], seed=0), r"b .*\{0: inf\}"),
        (lambda: stats.paired([1.0], [0.0], level=0.0, seed=0), "level.*0.0"),
        (lambda: stats.paired([1.0], [0.0], resamples=0, seed=0), "got 0"),
        (lambda: stats.holm([]), r"\[\]"),
        (lambda: stats.holm([0.5, 1.5]), "1.5"),
        (lambda: stats.holm([-0.1]), "-0.1"),
        (lambda: stats.holm([math.nan]), r"\{0: nan\}"),
        (lambda: stats.minimum_detectable_effect(0, deviation=0.5), "got 0"),
        (lambda: stats.minimum_detectable_effect(5, deviation=-1), "-1"),
        (lambda: stats.minimum_detectable_effect(5, deviation=math.nan), "nan"),
        (lambda: stats.minimum_detectable_effect(5, deviation=0.5, power=1.0), "power 1.0"),
        (lambda: stats.minimum_detectable_effect(5, deviation=0.5, alpha=0.9), "alpha 0.9"),
        (lambda: stats.needed_items(0.0, 0.5), "0.0"),
        (lambda: stats.needed_items(math.nan, 0.5), "nan"),
        (lambda: stats.needed_items(0.1, math.inf), "inf"),
        (lambda: stats.needed_items(0.1, 0.5, alpha=0.0), "alpha 0.0"),
    ],
)
def test_bad_input_is_refused_with_its_value(call, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
