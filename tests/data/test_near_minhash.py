"""Signatures agree as often as sets overlap, and bands find what the S-curve says."""

from __future__ import annotations

import numpy as np
import pytest

from sartor.data.near.minhash import MOST, RECALL, Bands, bands_for, keys_of
from sartor.data.near.shingles import Ragged, mixed


def ragged(*sets: np.ndarray) -> Ragged:
    return Ragged(np.concatenate(sets), np.cumsum([0, *map(len, sets)]))


def pair(size: int, common: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of a size that have some members in common."""
    members = mixed(np.arange(2 * size, dtype=np.uint64) + np.uint64(1000 * seed)).astype(np.uint32)
    return np.sort(members[:size]), np.sort(members[size - common : 2 * size - common])


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_keep_their_promise_at_every_threshold(threshold: float) -> None:
    bands = bands_for(threshold)
    assert bands.permutations <= MOST
    assert bands.recall(threshold) >= RECALL
    assert bands.recall(1.0) == 1.0


def test_the_bands_of_the_documentation() -> None:
    assert bands_for(0.7) == Bands(20, 5)
    assert [round(Bands(20, 5).recall(jaccard), 3) for jaccard in (0.7, 0.8, 0.3, 0.1)] == [0.975, 1.0, 0.047, 0.0]


def test_longer_bands_where_only_nearer_pairs_are_wanted() -> None:
    rows = [bands_for(threshold).rows for threshold in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
    assert rows == sorted(rows)
    assert bands_for(0.1).rows == 1


def test_single_numbers_agree_as_often_as_sets_overlap() -> None:
    bands = Bands(100, 1)
    shares = []
    for seed in range(40):
        keys_DB = keys_of(ragged(*pair(80, 60, seed)), bands)
        shares.append(float((keys_DB[0] == keys_DB[1]).mean()))
    true = 60 / 100
    assert abs(np.mean(shares) - true) < 0.03
    assert np.std(shares) < 0.08  # √(0.6 · 0.4 / 100) = 0.05


def test_equal_sets_have_equal_keys_and_others_share_none() -> None:
    left, right = pair(50, 0, seed=3)
    keys_DB = keys_of(ragged(left, right, left), bands_for(0.7))
    assert (keys_DB[0] == keys_DB[2]).all()
    assert not (keys_DB[0] == keys_DB[1]).any()
