"""Who judges a label has never seen it; twice the same gives the same."""

from __future__ import annotations

import numpy as np
import pytest

from sartor.data.finding import suspects
from sartor.data.finding.features import Features, features_of

TEXTS = [f"{['red', 'green', 'blue'][row % 3]} thing of number {row}" for row in range(90)]
LABELS_N = np.arange(90) % 3


@pytest.fixture(scope="module")
def features() -> Features:
    return features_of(TEXTS)


def test_both_ways_learn_what_there_is_to_learn(features: Features) -> None:
    for likely_NC in (
        suspects.held_out_probabilities(features, LABELS_N, 3, seed=1),
        suspects.neighbour_shares(features.dense, LABELS_N, 3, 5, seed=1),
    ):
        assert likely_NC.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
        assert (likely_NC.argmax(axis=1) == LABELS_N).mean() > 0.95
        assert (suspects.suggested(likely_NC, LABELS_N, 0.4) == LABELS_N).all()


def test_a_text_has_no_say_in_its_own_label(features: Features) -> None:
    flipped_N = LABELS_N.copy()
    flipped_N[7] = 2
    for judge in (
        lambda labels_N: suspects.held_out_probabilities(features, labels_N, 3, seed=1),
        lambda labels_N: suspects.neighbour_shares(features.dense, labels_N, 3, 5, seed=1),
    ):
        before_NC, after_NC = judge(LABELS_N), judge(flipped_N)
        assert (before_NC[7] == after_NC[7]).all()
        assert (before_NC != after_NC).any()
        assert (judge(flipped_N) == after_NC).all()
        assert suspects.suggested(after_NC, flipped_N, 0.2)[7] == LABELS_N[7]


def test_neighbours_are_looked_for_among_so_many_at_most(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "MOST", 30)
    monkeypatch.setattr(suspects, "_BLOCK", 16)
    likely_NC = suspects.neighbour_shares(features.dense, LABELS_N, 3, 5, seed=1)
    assert likely_NC.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (likely_NC.argmax(axis=1) == LABELS_N).mean() > 0.8


def test_a_suggestion_needs_a_margin() -> None:
    likely_NC = np.array([[0.3, 0.7], [0.45, 0.55], [0.9, 0.1]])
    labels_N = np.array([0, 0, 0])
    assert suspects.suggested(likely_NC, labels_N, 0.3).tolist() == [1, 0, 0]
    assert suspects.suggested(likely_NC, labels_N, 0.05).tolist() == [1, 1, 0]
