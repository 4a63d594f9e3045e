"""Packing: every token once, nothing cut, and steps that do not depend on how they are packed or interrupted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor.data.fold import fold
from sartor.data.pack import Segment, Steps, pack, segment
from sartor.errors import DataError
from sartor.types import Batch

from .plans import segments

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=30)
#: (which beginning, which continuation of it, tokens of its own)
BRANCHES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=20)


def made(lengths: list[int]) -> list[Segment]:
    """Segments of these lengths with tokens that occur nowhere else."""
    return [
        segment(f"row {row}", range(row * 100, row * 100 + length + 1), [0.0, *[0.5] * length])
        for row, length in enumerate(lengths)
    ]


def branched(branches: list[tuple[int, int, int]], *, own: int = 1000) -> list[Segment]:
    """Segments on a tree: a beginning of 5, 20 or 35 tokens, one of 0, 18 or 36 after it, and tokens of their own."""
    made = []
    for row, (beginning, middle, length) in enumerate(branches):
        ids = [
            *range(5 + 15 * beginning),
            *range(100, 100 + 18 * middle),
            *range(own * (row + 1), own * (row + 1) + length),
        ]
        made.append(segment(f"row {row}", [*ids, 9], [0.0, 0.0, *[1.0] * (len(ids) - 1)]))
    return made


def unpacked(batches: list[Batch]) -> dict[str, Segment]:
    """The segments of batches, by row; each must be whole and count its positions from 0."""
    found = {}
    for batch in batches:
        assert batch.offsets_S1[0] == 0
        assert batch.offsets_S1[-1] == batch.num_tokens
        assert len(batch.offsets_S1) == len(batch.rows) + 1
        for row, start, end in zip(batch.rows, batch.offsets_S1[:-1], batch.offsets_S1[1:], strict=True):
            assert row not in found
            assert batch.positions_T[start:end].tolist() == list(range(end - start))
            found[row] = Segment(
                row=row,
                tokens=tuple(batch.tokens_T[start:end].tolist()),
                targets=tuple(batch.targets_T[start:end].tolist()),
                weights=tuple(batch.weights_T[start:end].tolist()),
            )
    return found


def test_a_position_is_trained_to_give_the_next_token_with_its_weight() -> None:
    item = segment("a", [1, 2, 3, 4], [0.0, 0.0, 1.0, 0.5])
    assert item == Segment(row="a", tokens=(1, 2, 3), targets=(2, 3, 4), weights=(0.0, 1.0, 0.5))


def test_a_batch_by_hand() -> None:
    (batch,) = pack([segment("a", [1, 2], [0, 1]), segment("b", [5, 6, 7], [0, 0, 1])], micro_tokens=3)
    assert batch.rows == ("b", "a"), "the longest first"
    assert batch.tokens_T.tolist() == [5, 6, 1]
    assert batch.targets_T.tolist() == [6, 7, 2]
    assert batch.positions_T.tolist() == [0, 1, 0]
    assert batch.weights_T.tolist() == [0.0, 1.0, 1.0]
    assert batch.offsets_S1.tolist() == [0, 2, 3]
    assert (batch.num_tokens, batch.num_supervised) == (3, 2)
    assert [array.dtype for array in (batch.tokens_T, batch.positions_T, batch.targets_T)] == [np.int64] * 3
    assert (batch.weights_T.dtype, batch.offsets_S1.dtype) == (np.float32, np.int32)


def test_nothing_packs_to_nothing() -> None:
    assert pack([], micro_tokens=8) == []


@settings(deadline=None)
@given(lengths=LENGTHS, micro_tokens=st.integers(1, 40), most=st.integers(0, 4))
def test_every_token_once_and_no_segment_cut(lengths: list[int], micro_tokens: int, most: int) -> None:
    items = made(lengths)
    batches = pack(items, micro_tokens=micro_tokens, max_segments=most)
    assert unpacked(batches) == {item.row: item for item in items}
    for batch in batches:
        assert batch.num_tokens <= micro_tokens or len(batch.rows) == 1
        assert not most or len(batch.rows) <= most
    # First fit leaves no two batches that would go into one.
    sizes = sorted(batch.num_tokens for batch in batches)
    assert most or len(sizes) < 2 or sizes[0] + sizes[1] > micro_tokens


@settings(deadline=None)
@given(branches=BRANCHES, micro_tokens=st.integers(1, 120), most=st.integers(0, 4), seed=st.integers(0, 99))
def test_sharing_counts_what_is_computed(
    branches: list[tuple[int, int, int]], micro_tokens: int, most: int, seed: int
) -> None:
    items = branched(branches)
    batches = pack(items, micro_tokens=micro_tokens, max_segments=most, share=True)
    assert unpacked(batches) == {item.row: item for item in items}
    lengths = {item.row: len(item.tokens) for item in items}
    for batch in batches:
        longest = max(lengths[row] for row in batch.rows)
        assert fold(batch).num_tokens <= max(micro_tokens, longest)
        assert not most or len(batch.rows) <= most
    shuffled = [items[index] for index in np.random.default_rng(seed).permutation(len(items))]
    again = pack(shuffled, micro_tokens=micro_tokens, max_segments=most, share=True)
    assert len(again) == len(batches)
    for one, other in zip(batches, again, strict=True):
        for first, second in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True):
            assert np.array_equal(first, second), "the order of the segments changed the batches"


@settings(deadline=None)
@given(lengths=LENGTHS, micro_tokens=st.integers(1, 40))
def test_sharing_changes_no_batch_of_strangers(lengths: list[int], micro_tokens: int) -> None:
    items = sorted(made(lengths), key=lambda item: item.row)
    plain, shared = (pack(items, micro_tokens=micro_tokens, share=share) for share in (False, True))
    assert [batch.rows for batch in plain] == [batch.rows for batch in shared]


def test_rows_with_the_same_beginning_meet_in_one_batch() -> None:
    items = branched([(2, 2, 4), (1, 1, 10)] * 8)
    apart = pack(items, micro_tokens=160)
    batches = pack(items, micro_tokens=160, share=True)
    assert len(apart) == 7
    # Each fork is one token early: 70 + 8 · 5, and of the others 18 more on 19 that are shared + 11 each.
    assert [fold(batch).num_tokens for batch in batches] == [70 + 8 * 5 + 18 + 2 * 11, 37 + 6 * 11]
    assert [len(batch.rows) for batch in batches] == [10, 6]
    assert [batch.num_tokens for batch in batches] == [8 * 75 + 2 * 48, 6 * 48]


def test_a_prefix_joins_the_batch_of_a_segment_that_is_too_long() -> None:
    long, short = segment("long", range(50), [1.0] * 50), segment("short", range(30), [1.0] * 30)
    (batch,) = pack([short, long], micro_tokens=20, share=True)
    assert batch.rows == ("long", "short")


def test_nothing_to_share_packs_to_nothing() -> None:
    assert pack([], micro_tokens=8, share=True) == []


@settings(deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 5), seed=st.integers(0, 9), one=st.integers(1, 50))
def test_packing_never_changes_which_examples_are_in_a_step(
    lengths: list[int], batch_size: int, seed: int, one: int
) -> None:
    examples = [[item] for item in made(lengths)]
    steps = [
        Steps(examples, batch_size=batch_size, micro_tokens=size, seed=seed, share=share)
        for size in (one, 10_000)
        for share in (False, True)
    ]
    for _ in range(8):
        rows = [sorted(row for batch in next(each) for row in batch.rows) for each in steps]
        assert all(other == rows[0] for other in rows)
        assert len(rows[0]) == batch_size


@settings(deadline=None)
@given(count=st.integers(1, 20), batch_size=st.integers(1, 7), seed=st.integers(0, 9))
def test_each_epoch_shows_each_example_once_in_an_order_of_its_own(count: int, batch_size: int, seed: int) -> None:
    one_by_one = Steps(segments(count), batch_size=1, micro_tokens=1, seed=seed)
    order = [next(one_by_one)[0].rows[0] for _ in range(3 * count)]
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == sorted(f"row {row}" for row in range(count))
    steps = Steps(segments(count), batch_size=batch_size, micro_tokens=1, seed=seed)
    for start in range(0, 3 * count - batch_size + 1, batch_size):
        rows = [row for batch in next(steps) for row in batch.rows]
        assert sorted(rows) == sorted(order[start : start + batch_size])


def test_epochs_and_seeds_differ_in_order() -> None:
    def order(seed: int) -> list[str]:
        steps = Steps(segments(20), batch_size=1, micro_tokens=99, seed=seed)
        return [next(steps)[0].rows[0] for _ in range(40)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:20] != order(1)[20:]
    assert sorted(order(1)[:20]) == sorted(order(1)[20:])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 12), batch_size=st.integers(1, 5), position=st.integers(0, 40))
def test_steps_go_on_exactly_where_they_were_saved(tmp_path: Path, count: int, batch_size: int, position: int) -> None:
    def fresh() -> Steps:
        return Steps(segments(count), batch_size=batch_size, micro_tokens=16, seed=5)

    one, other = fresh(), fresh()
    for _ in range(position):
        next(one)
    one.save(tmp_path)
    other.load(tmp_path)
    assert other.position == position
    for _ in range(30):
        for left, right in zip(next(one), next(other), strict=True):
            for first, second in zip(dataclasses.astuple(left), dataclasses.astuple(right), strict=True):
                assert np.array_equal(first, second)


def test_the_segments_of_one_example_stay_in_one_step() -> None:
    examples = [[segment(f"{row}.{part}", [row, part, 9], [0, 1, 1]) for part in range(3)] for row in range(4)]
    steps = Steps(examples, batch_size=1, micro_tokens=4, seed=0)
    for _ in range(8):
        rows = [row for batch in next(steps) for row in batch.rows]
        assert len(rows) == 3
        assert len({row[0] for row in rows}) == 1


def test_no_examples_are_refused() -> None:
    with pytest.raises(DataError, match="no examples to train on") as caught:
        Steps([], batch_size=2, micro_tokens=8, seed=0)
    assert "sartor check" in caught.value.hint
