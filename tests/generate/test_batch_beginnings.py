"""Virtual tokens: pages that stay, shared where they are full and copied where they are not."""

from __future__ import annotations

import pytest

from sartor.generate.batch.beginnings import Beginnings
from sartor.generate.batch.pages import PagePool
from sartor.ops.decode import PAGE


def opened(length: int, num_pages: int = 12) -> tuple[Beginnings, PagePool, list[tuple[int, int]]]:
    pool, copied = PagePool(num_pages), []
    beginnings = Beginnings(pool, lambda source, target: copied.append((source, target)))
    beginnings.add(0, length)
    return beginnings, pool, copied


@pytest.mark.parametrize(("length", "full"), [(3, 0), (PAGE, 1), (PAGE + 3, 1), (2 * PAGE, 2)])
def test_full_pages_are_shared_and_the_rest_is_copied(length: int, full: int) -> None:
    beginnings, pool, copied = opened(length)
    held = beginnings.of(0).pages
    before = pool.num_used
    pages = beginnings.begin([5, 6], 0, length + 2)
    assert tuple(pages[:full]) == held[:full] and not set(pages[full:]) & set(held)
    assert copied == ([(held[-1], pages[full])] if length % PAGE else [])
    assert len(pages) - full == beginnings.num_pages_for(0, length + 2) == pool.num_used - before
    pool.give_back(pages)
    assert pool.num_used == beginnings.num_pages == before


def test_an_adapter_without_virtual_tokens_begins_with_nothing() -> None:
    beginnings, _, copied = opened(PAGE)
    pages = beginnings.begin([5] * 20, 1, 20)
    assert len(pages) == 2 and copied == [] and beginnings.of(1).ids == ()
    assert not set(pages) & set(beginnings.of(0).pages)


def test_a_fresh_pool_gives_the_same_pages() -> None:
    assert opened(PAGE + 3)[0].of(0) == opened(PAGE + 3)[0].of(0)
