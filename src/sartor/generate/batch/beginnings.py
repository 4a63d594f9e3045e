"""What all sequences of some adapters begin with: virtual tokens, computed once, in pages that are never given back.

In a row's tokens they have ids of their own (-1, -2, …), so their full pages are found and shared as those of any other
beginning are (`pages.py`). A last page that they fill only in part goes on with a row's own tokens, so each row that
does not find it filled by another one gets a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sartor.generate.batch.pages import PagePool, pages_for
from sartor.ops.decode import PAGE


@dataclass(frozen=True, slots=True)
class Beginning:
    """The virtual tokens of one adapter, and the pages that hold them."""

    ids: tuple[int, ...] = ()
    pages: tuple[int, ...] = ()


class Beginnings:
    """The beginnings of one pool. `copy` puts what a page holds into another one."""

    def __init__(self, pool: PagePool, copy: Callable[[int, int], None]) -> None:
        self._pool = pool
        self._copy = copy
        self._of: dict[int, Beginning] = {}

    def add(self, adapter: int, length: int) -> Beginning:
        """Take pages for an adapter's virtual tokens; the caller writes them.

        On a fresh pool the same ones each time.
        """
        made = Beginning(tuple(range(-1, -1 - length, -1)), tuple(self._pool.take(pages_for(length))))
        self._pool.publish(made.pages, made.ids, adapter)
        self._of[adapter] = made
        return made

    def of(self, adapter: int) -> Beginning:
        """An adapter's beginning, which has no tokens if it has none."""
        return self._of.get(adapter, Beginning())

    def num_pages_for(self, adapter: int, num_tokens: int) -> int:
        """Pages that a sequence of so many tokens, the virtual ones among them, needs beside those that are shared."""
        return pages_for(num_tokens) - len(self.of(adapter).ids) // PAGE

    @property
    def num_pages(self) -> int:
        """All pages that the beginnings hold."""
        return sum(len(each.pages) for each in self._of.values())

    def enter(self, pages: list[int], adapter: int) -> int:
        """Complete a sequence's shared pages, if they end within its beginning; the tokens that are computed.

        It may need one fresh page.
        """
        ids = self.of(adapter).ids
        if len(pages) * PAGE >= len(ids):
            return len(pages) * PAGE
        pages += self._pool.take(1)
        self._copy(self.of(adapter).pages[-1], pages[-1])
        return len(ids)

    def begin(self, ids: Sequence[int], adapter: int, num_tokens: int) -> list[int]:
        """Pages for a sequence that shares its beginning and nothing else; there must be as many."""
        pages = self._pool.share([*self.of(adapter).ids, *ids[:1]], adapter)
        self.enter(pages, adapter)
        return pages + self._pool.take(pages_for(num_tokens) - len(pages))
