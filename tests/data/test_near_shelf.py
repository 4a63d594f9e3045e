"""The table finds every text that shares a band, whatever its size; sets are compared exactly, cut ones nearly so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data.near.shelf import CANDIDATES, CHAIN, SKETCH, Column, Shelf, jaccard, sketched, twins
from sartor.data.near.shingles import Ragged, mixed


def ragged(*sets: set[int]) -> Ragged:
    values = [np.array(sorted(each), np.uint32) for each in sets]
    return Ragged(np.concatenate([np.zeros(0, np.uint32), *values]), np.cumsum([0, *map(len, sets)]))


def put(shelf: Shelf, keys_DB: np.ndarray) -> None:
    numbers = np.arange(len(shelf), len(shelf) + len(keys_DB))
    shelf.put(numbers, ragged(*[{number} for number in numbers.tolist()]), keys_DB)


#: Few different keys, so that many texts share a band.
KEYS = st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=60)


@settings(deadline=None, max_examples=50)
@given(batches=st.lists(KEYS, min_size=1, max_size=4), asked=KEYS)
def test_candidates_are_those_that_share_a_band(batches: list[list[list[int]]], asked: list[list[int]]) -> None:
    shelf = Shelf(3)
    held: list[list[int]] = []
    for batch in batches:
        put(shelf, mixed(np.array(batch, np.uint64)))
        held += batch
    texts, places = shelf.candidates(mixed(np.array(asked, np.uint64)))
    found = set(zip(texts.tolist(), places.tolist(), strict=True))
    for row, keys in enumerate(asked):
        true = {place for place, theirs in enumerate(held) if any(a == b for a, b in zip(keys, theirs, strict=True))}
        mine = {place for text, place in found if text == row}
        assert mine <= true
        assert mine == true or len(mine) >= CANDIDATES or len(true) > CHAIN


@settings(deadline=None, max_examples=50)
@given(KEYS)
def test_twins_are_pairs_of_one_batch(keys: list[list[int]]) -> None:
    later, earlier = twins(np.array(keys, np.uint64))
    found = set(zip(later.tolist(), earlier.tolist(), strict=True))
    for row, mine in enumerate(keys):
        true = {place for place in range(row) if any(a == b for a, b in zip(mine, keys[place], strict=True))}
        assert {place for text, place in found if text == row} <= true
        assert not true or any(text == row for text, _ in found)
        if len(true) <= CANDIDATES and max(keys.count(each) for each in keys) <= CHAIN:
            assert {place for text, place in found if text == row} == true


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30), min_size=1)), max_size=9)
)
def test_the_jaccard_index_of_whole_sets_is_exact(pairs: list[tuple[set[int], set[int]]]) -> None:
    found = jaccard(ragged(*[left for left, _ in pairs]), ragged(*[right for _, right in pairs]))
    assert found.tolist() == pytest.approx([len(left & right) / len(left | right) for left, right in pairs])


def test_of_large_sets_the_least_shingles_give_a_near_estimate() -> None:
    numbers = mixed(np.arange(30_000, dtype=np.uint64)).astype(np.uint32).tolist()
    left, right = set(numbers[:20_000]), set(numbers[4_000:24_000])
    cut = sketched(ragged(left, right, {1, 2}))
    assert cut.counts.tolist() == [SKETCH, SKETCH, 2]
    true = len(left & right) / len(left | right)
    assert abs(jaccard(cut.taken(np.array([0])), cut.taken(np.array([1])))[0] - true) < 0.05
    small = sketched(ragged(set(numbers[:500])))
    assert jaccard(cut.taken(np.array([0])), small)[0] == pytest.approx(500 / 20_000, abs=0.02)


def test_what_is_put_is_there_after_the_table_grew() -> None:
    shelf = Shelf(4)
    keys_DB = mixed(np.arange(4 * 3000, dtype=np.uint64).reshape(3000, 4))
    for start in range(0, 3000, 500):
        put(shelf, keys_DB[start : start + 500])
    texts, places = shelf.candidates(keys_DB)
    assert texts.tolist() == places.tolist() == list(range(3000))
    assert shelf.sets(np.array([7, 2999])).values.tolist() == [7, 2999]
    assert shelf.num_bytes < 3000 * (4 * 16 + 32)


def test_a_column_grows() -> None:
    column = Column(np.int64, 2)
    for start in range(0, 1000, 10):
        column.append(np.arange(start, start + 10).repeat(2).reshape(10, 2))
    assert column.rows[:, 1].tolist() == list(range(1000))
    assert column.num_bytes == 16_000
