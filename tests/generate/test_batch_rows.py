"""Rows: who has a turn, in which order, and who gives way when the cache is full."""

from __future__ import annotations

from itertools import count

import pytest

from sartor.errors import UserError
from sartor.generate.batch.beginnings import Beginnings
from sartor.generate.batch.pages import PagePool
from sartor.generate.batch.rows import Rows, Turn
from sartor.generate.protocol import Sampling
from sartor.ops.decode import PAGE

SAMPLING = Sampling(max_new_tokens=5, stop_ids=frozenset({0}))


def rows_of(num_pages: int = 50, *, step_tokens: int = 40, max_rows: int = 8, context: int = 200) -> Rows:
    pool = PagePool(num_pages)
    return Rows(pool, context, count(), nothing(pool), step_tokens=step_tokens, max_rows=max_rows)


def nothing(pool: PagePool) -> Beginnings:
    """No adapter has virtual tokens."""
    return Beginnings(pool, lambda source, target: None)


def play(rows: Rows) -> list[Turn]:
    """A step in which every row that samples gets the token 7."""
    turns = rows.next_step()
    for turn in turns:
        asks = turn.samples
        rows.computed(turn)
        if asks and turn.row.add(7) is not None:
            rows.leave(turn.row.handle)
    return turns


def sizes(turns: list[Turn]) -> dict[int, int]:
    return {turn.row.handle: turn.span.length for turn in turns}


def test_prompts_fill_a_step_and_are_cut_where_it_is_full() -> None:
    rows = rows_of()
    for length in (25, 30, 4):
        rows.submit(list(range(length)), SAMPLING, length)  # adapters apart, so that nothing is shared
    assert sizes(play(rows)) == {0: 25, 1: 15}
    assert sizes(play(rows)) == {0: 1, 1: 15, 2: 4}
    assert sizes(play(rows)) == {0: 1, 1: 1, 2: 1}


def test_a_row_ends_by_its_limit_or_a_stop() -> None:
    rows = rows_of()
    rows.submit([1, 2], SAMPLING, 0)
    (turn,) = rows.next_step()
    assert turn.samples and turn.tokens == [1, 2]
    assert turn.row.add(9) is None
    assert turn.row.add(0) == "stop"
    assert [turn.row.add(9), turn.row.add(9), turn.row.add(9)] == [None, None, "length"]


def test_an_answer_ends_where_the_context_does() -> None:
    rows = rows_of(context=12)
    rows.submit([1] * 10, SAMPLING, 0)
    assert [len(play(rows)) for _ in range(3)] == [1, 1, 0] and rows.handles == []


def test_those_that_share_pages_stand_side_by_side() -> None:
    rows = rows_of(step_tokens=400)
    common = list(range(2 * PAGE))
    for prompt in ([*common, 1], [99] * 20, [*common, 2], [98] * 20, [*common, 3]):
        rows.submit(prompt, SAMPLING, 0)
    assert sizes(play(rows)) == {0: 33, 1: 20, 2: 1, 3: 20, 4: 1}
    order = [turn.row.handle for turn in play(rows)]
    assert abs(order.index(0) - order.index(2)) == abs(order.index(2) - order.index(4)) == 1


def test_no_more_rows_than_allowed() -> None:
    rows = rows_of(max_rows=2)
    for _ in range(3):
        rows.submit([1], SAMPLING, 0)
    assert [len(play(rows)) for _ in range(6)] == [2, 2, 2, 2, 2, 1]


def test_the_last_to_come_gives_way_and_reads_again() -> None:
    rows = rows_of(num_pages=3)
    old = rows.submit([1] * (PAGE - 1), SAMPLING, 0)
    new = rows.submit([2] * (PAGE - 1), SAMPLING, 1)
    assert sizes(play(rows)) == {old: PAGE - 1, new: PAGE - 1}
    assert sizes(play(rows)) == {old: 1, new: 1}  # both pages are full
    assert sizes(play(rows)) == {old: 1}  # one page is left; who came last has none
    while old in sizes(turns := play(rows)):
        assert new not in sizes(turns)
    assert sizes(turns) == {new: 1}  # its full page was kept, and found
    assert turns[0].row.num_answered == 3


def test_leaving_at_any_time_frees_everything() -> None:
    pool = PagePool(20)
    rows = Rows(pool, 200, count(), nothing(pool), step_tokens=40)
    handles = [rows.submit([seed] * 30, SAMPLING, 0) for seed in range(4)]
    play(rows)
    for handle in handles:  # running, half read, and waiting
        rows.leave(handle)
    assert rows.handles == [] and pool.num_used == 0 and rows.next_step() == []


@pytest.mark.parametrize(
    ("prompt", "context", "pages", "what"),
    [([], 9, 9, "empty"), ([1] * 9, 9, 9, "the context is 9"), ([1] * 2 * PAGE, 99, 2, f"the cache holds {2 * PAGE}")],
)
def test_what_can_never_fit_is_refused(prompt: list[int], context: int, pages: int, what: str) -> None:
    with pytest.raises(UserError, match=what):
        rows_of(pages, context=context).submit(prompt, SAMPLING, 0)


def test_rows_begin_after_the_virtual_tokens_of_their_adapter() -> None:
    pool, copied = PagePool(20), []
    beginnings = Beginnings(pool, lambda source, target: copied.append((source, target)))
    held = beginnings.add(0, PAGE + 4)
    rows = Rows(pool, 60, count(), beginnings, step_tokens=200)
    assert rows.submit([5] * 30, SAMPLING, 0) == 0
    rows.submit([5] * 30, SAMPLING, 0)
    rows.submit([5] * 30, SAMPLING, 1)
    virtual, other = play(rows)[:-1], play(rows)
    assert [(turn.span.length, turn.span.before) for turn in virtual] == [(30, PAGE + 4), (2, 3 * PAGE)]
    assert all(turn.span.pages[0] == held.pages[0] for turn in virtual)
    assert copied == [(held.pages[1], virtual[0].span.pages[1])]  # the second found the first one's page
    assert all(turn.tokens == [7] for turn in other)
    for handle in range(3):
        rows.leave(handle)
    assert pool.num_used == len(held.pages)


def test_virtual_tokens_count_in_the_context_and_their_pages_not_for_others() -> None:
    pool = PagePool(5)
    beginnings = Beginnings(pool, lambda source, target: None)
    beginnings.add(0, 2 * PAGE)
    rows = Rows(pool, 4 * PAGE, count(), beginnings, step_tokens=1024)
    with pytest.raises(UserError, match=f"the context is {2 * PAGE} tokens"):
        rows.submit([1] * 2 * PAGE, SAMPLING, 0)
    rows.submit([1] * (2 * PAGE - 1), SAMPLING, 0)
    rows.submit([1] * (3 * PAGE - 1), SAMPLING, 1)
    with pytest.raises(UserError, match=f"the cache holds {3 * PAGE} tokens"):
        rows.submit([1] * 3 * PAGE, SAMPLING, 1)


def test_an_answer_ends_where_the_cache_does() -> None:
    rows = rows_of(num_pages=1)
    rows.submit([1] * (PAGE - 2), SAMPLING, 0)
    assert [len(play(rows)) for _ in range(3)] == [1, 1, 0] and rows.handles == []
