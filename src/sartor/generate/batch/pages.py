"""Which page of the cache belongs to whom: pages are handed out, shared by what begins alike, and kept until needed.

A page holds the keys and values of `PAGE` tokens in a row, of all layers. A full page is known by the page before it
and its own tokens, so a prompt that begins as another one did finds that one's pages, whether it is still running or
long gone. What nobody uses stays until its place is wanted, the longest unused first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sartor.ops.decode import PAGE

#: How a full page is known: its adapter's number, the page before it (`NONE`, of a first one), and its tokens.
Key = tuple[int, int, tuple[int, ...]]
NONE = -1


@dataclass
class _Page:
    """`key` is None until the page is full and can be found."""

    users: int = 0
    key: Key | None = None


def pages_for(num_tokens: int) -> int:
    """Pages that so many tokens need."""
    return -(-num_tokens // PAGE)


class PagePool:
    """The pages of one cache, by number."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._pages: dict[int, _Page] = {}  # those that were ever taken: a small model has a million
        self._free = list(range(num_pages - 1, -1, -1))  # the lowest first, so that memory is touched as it is needed
        self._found: dict[Key, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # full, unused; the next to be given away first

    @property
    def num_available(self) -> int:
        """Pages that `take` can give."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Pages that somebody uses."""
        return self.num_pages - self.num_available

    def share(self, tokens: Sequence[int], adapter: int) -> list[int]:
        """The pages that already hold the beginning of these tokens, leaving at least one token to compute.

        The caller uses them from now on. Keys and values depend on the adapter, so pages are shared within one only.
        """
        pages: list[int] = []
        for key in _keys(tokens[:-1], adapter, pages):
            page = self._found.get(key)
            if page is None:
                break
            self._idle.pop(page, None)
            self._pages[page].users += 1
            pages.append(page)
        return pages

    def take(self, count: int) -> list[int]:
        """Fresh pages for the caller's own use; there must be as many (`num_available`)."""
        return [self._take_one() for _ in range(count)]

    def publish(self, pages: Sequence[int], tokens: Sequence[int], adapter: int) -> None:
        """Let others find those of a row's pages that these tokens fill. Calling it again for more tokens is right."""
        for number, key in enumerate(_keys(tokens, adapter, pages)):
            page = self._pages[pages[number]]
            if page.key is None and self._found.setdefault(key, pages[number]) == pages[number]:
                page.key = key
            elif page.key is None:
                return  # somebody else's page holds the same; what comes after ours could not be found through it

    def give_back(self, pages: Sequence[int]) -> None:
        """The caller uses these pages, in their order, no longer.

        The last goes first, so a page is never given away before those that are known by it.
        """
        for number in reversed(pages):
            page = self._pages[number]
            page.users -= 1
            if page.users == 0 and page.key is None:
                self._free.append(number)
            elif page.users == 0:
                self._idle[number] = None

    def _take_one(self) -> int:
        if self._free:
            number = self._free.pop()
        else:
            number, _ = self._idle.popitem(last=False)
            key = self._pages[number].key
            assert key is not None
            del self._found[key]
        self._pages[number] = _Page(users=1)
        return number


def _keys(tokens: Sequence[int], adapter: int, pages: Sequence[int]) -> Iterator[Key]:
    """The keys of the full pages of these tokens; `pages` may grow while they are drawn."""
    for number in range(len(tokens) // PAGE):
        before = pages[number - 1] if number else NONE
        yield adapter, before, tuple(tokens[number * PAGE : (number + 1) * PAGE])
