"""Pages: what begins alike shares them, what is unused is found until its place is wanted, and nothing leaks."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sartor.generate.batch.pages import PagePool, pages_for
from sartor.ops.decode import PAGE


def fill(pool: PagePool, tokens: list[int], adapter: int = 0) -> list[int]:
    """A sequence that takes what it can share and the rest anew, computed at once."""
    pages = pool.share(tokens, adapter)
    pages += pool.take(pages_for(len(tokens)) - len(pages))
    pool.publish(pages, tokens, adapter)
    return pages


def words(length: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(1000) for _ in range(length)]


def test_pages_for() -> None:
    assert [pages_for(count) for count in (0, 1, PAGE, PAGE + 1)] == [0, 1, 1, 2]


def test_what_begins_alike_shares_full_pages() -> None:
    pool = PagePool(20)
    prefix = words(3 * PAGE + 5)
    one = fill(pool, [*prefix, 1])
    other = fill(pool, [*prefix, 2, 3])
    assert one[:3] == other[:3] and not set(one[3:]) & set(other[3:])
    assert pool.num_used == 5
    assert pool.share([*prefix[: 2 * PAGE], 7, 8], 0) == one[:2]


def test_one_token_is_always_left_to_compute() -> None:
    pool = PagePool(4)
    tokens = words(2 * PAGE)
    fill(pool, tokens)
    assert len(pool.share(tokens, 0)) == 1
    assert len(pool.share([*tokens, 5], 0)) == 2
    assert pool.share([], 0) == []


def test_adapters_share_nothing() -> None:
    pool = PagePool(8)
    tokens = words(2 * PAGE + 1)
    fill(pool, tokens, adapter=0)
    assert pool.share(tokens, 1) == [] and pool.share(tokens, -1) == []


def test_a_first_page_is_known_by_no_page_before_it() -> None:
    """Of the base too, whose number is -1: page 0 comes before others."""
    pool = PagePool(20)
    again = [7] * (2 * PAGE + 1)
    assert fill(pool, again, adapter=-1) == [0, 1, 2]
    assert pool.share(again, -1) == [0, 1]
    behind = words(PAGE, seed=1)
    fill(pool, [*words(PAGE, seed=2), *behind, 0], adapter=-1)
    assert pool.share([*behind, 0], -1) == []


def test_unused_pages_are_found_until_their_place_is_wanted() -> None:
    pool = PagePool(4)
    first, second = words(2 * PAGE, seed=1), words(2 * PAGE, seed=2)
    pool.give_back(fill(pool, first))
    pool.give_back(fill(pool, second))
    assert pool.num_used == 0 and pool.num_available == 4
    held = pool.share([*second, 0], 0)
    assert len(held) == 2
    pool.take(1)  # the end of the first goes before its beginning
    assert len(pool.share([*first, 0], 0)) == 1


def test_the_same_pages_filled_twice_are_found_once() -> None:
    pool = PagePool(8)
    tokens = words(2 * PAGE + 3)
    one, two = pool.take(3), pool.take(3)  # both were under way before either was computed
    pool.publish(one, tokens, 0)
    pool.publish(two, tokens, 0)
    pool.give_back(two)
    assert pool.share([*tokens, 1], 0) == one[:2]
    pool.give_back(one[:2])
    pool.give_back(one)
    assert pool.num_available == 8


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5 * PAGE), st.integers(-1, 1), st.booleans()), max_size=30))
def test_whatever_happens_content_is_right_and_nothing_leaks(story: list[tuple[int, int, int, bool]]) -> None:
    """Pages remember what was written into them; whoever shares one must find its own tokens there."""
    pool = PagePool(12)
    written: dict[int, tuple[int, list[int]]] = {}
    running: list[list[int]] = []
    for seed, length, adapter, ends in story:
        tokens = (words(2 * PAGE, seed) * 3)[:length]  # with pages of the same tokens
        if pages_for(length) > pool.num_available:
            while running:
                pool.give_back(running.pop())
        pages = pool.share(tokens, adapter)
        for number, page in enumerate(pages):
            assert written[page] == (adapter, tokens[: (number + 1) * PAGE])
        if pages_for(length) - len(pages) > pool.num_available:
            pool.give_back(pages)
            continue
        fresh = pool.take(pages_for(length) - len(pages))
        assert not {page for others in running for page in others} & set(fresh) and len(set(fresh)) == len(fresh)
        for number, page in enumerate(fresh, start=len(pages)):
            written[page] = (adapter, tokens[: (number + 1) * PAGE])
        pages += fresh
        pool.publish(pages, tokens, adapter)
        running.append(pages)
        if ends:
            pool.give_back(running.pop(0))
    while running:
        pool.give_back(running.pop())
    assert pool.num_used == 0
