"""Padding: of like length together, nothing lost, and a mask that says where there is something."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data.pack import pack, segment
from sartor.data.pad import LONGER, MORE, alike, halves, padded, runs, whole


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40))
def test_runs_hold_every_place_once_and_pad_little(lengths: list[int]) -> None:
    found = runs(lengths)
    assert sorted(place for run in found for place in run) == list(range(len(lengths)))
    for run in found:
        sizes = [lengths[place] for place in run]
        assert max(sizes) <= LONGER * min(sizes) + MORE


def test_batches_of_like_length_are_the_batch() -> None:
    segments = [segment(f"row {size}", range(size), [0.0] * (size - 2) + [1.0] * 2) for size in (4, 40, 5, 42)]
    (batch,) = pack(segments, micro_tokens=999)
    parts = alike(batch)
    assert [part.rows for part in parts] == [("row 4", "row 5"), ("row 40", "row 42")]
    assert sum(part.num_tokens for part in parts) == batch.num_tokens
    assert sum(part.num_supervised for part in parts) == batch.num_supervised
    assert [tokens.tolist() for tokens in whole(parts[0])] == [[0, 1, 2], [0, 1, 2, 3]]
    first, second = halves(parts[0])
    assert [(a.tolist(), b.tolist()) for a, b in zip(first, second, strict=True)] == [([0], [1, 2]), ([0, 1], [2, 3])]


def test_without_a_weight_there_is_no_second_half() -> None:
    (batch,) = pack([segment("a", [1, 2, 3], [0.0] * 3)], micro_tokens=9)
    first, second = halves(batch)
    assert (first[0].tolist(), second[0].tolist()) == ([1, 2], [])


def test_rows_are_filled_up_and_masked() -> None:
    tokens, mask = padded([np.array([5, 6]), np.array([], dtype=np.int64)], fill=9)
    assert tokens.tolist() == [[5, 6], [9, 9]]
    assert mask.tolist() == [[1, 1], [0, 0]]
    assert padded([[]])[0].shape == (1, 1)
