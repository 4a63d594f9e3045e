"""Sparse vectors of texts: of length 1, near for texts that share rare words."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data.finding.features import Features, features_of


def cosines(features: Features, width: int) -> np.ndarray:
    rows_NW = features.dense(np.arange(len(features)), width)
    return np.asarray(rows_NW @ rows_NW.T)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(alphabet="abc de.中", max_size=30), min_size=1, max_size=8))
def test_rows_have_length_one_or_nothing(texts: list[str]) -> None:
    features = features_of(texts)
    assert len(features) == len(texts)
    squares = np.bincount(features.owners_F, features.values_F**2, len(texts))
    for text, square in zip(texts, squares.tolist(), strict=True):
        assert abs(square - (1.0 if text.strip() else 0.0)) < 1e-5


def test_texts_that_share_rare_words_are_near_those_that_share_common_ones_are_not() -> None:
    texts = ["the blue whale", "a blue whale sings", "the red car", "the old house", "the cold sea", "the tall tree"]
    cosines_NN = cosines(features_of(texts), 4096)
    assert cosines_NN[0, 1] > 0.4
    assert cosines_NN[0, 2:].max() < 0.2


def test_fewer_columns_give_nearly_the_same_cosines() -> None:
    texts = [f"word{row % 7} and word{row % 5} of {row}" for row in range(40)]
    features = features_of(texts)
    assert np.abs(cosines(features, 1024) - cosines(features, 2**16)).max() < 0.2


def test_rows_are_the_same_in_any_batch() -> None:
    texts = ["one two", "two three", "three one"] * 400
    features = features_of(texts)
    values = features.columns.taken(np.array([0, 3, 1197])).values.reshape(3, -1)
    assert (values == values[0]).all()
