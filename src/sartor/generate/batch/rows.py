"""The rows of the running batch: who waits, who reads its prompt, who writes its answer, and what comes next.

A step takes one token of every row that is answering, and fills up with the next tokens of prompts, so that one flat
forward serves both. Rows join and leave between steps. If the cache is full, the row that came last gives its pages up,
waits, and later reads again what it had; its answer stays the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from sartor.generate.batch.beginnings import Beginnings
from sartor.generate.batch.pages import PagePool, pages_for
from sartor.generate.protocol import FinishReason, Sampling, room_for_answer
from sartor.ops.decode import PAGE, Span

MAX_ROWS = 256  # beyond this the products are no faster a row, and everybody waits longer


@dataclass
class Row:
    """One request. The first `num_cached` of `tokens` have their keys and values in `pages`.

    Tokens are the adapter's virtual ones, if it has some, the prompt, and then the answer; the first two are
    `num_prompt`.
    """

    handle: int
    adapter: int
    sampling: Sampling
    tokens: list[int]
    num_prompt: int
    limit: int
    num_cached: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def num_answered(self) -> int:
        return len(self.tokens) - self.num_prompt

    def add(self, token: int) -> FinishReason | None:
        """Take a sampled token; why the answer ends with it, if it does."""
        self.tokens.append(token)
        if token in self.sampling.stop_ids:
            return "stop"
        return "length" if self.num_answered >= self.limit else None


@dataclass(frozen=True, slots=True)
class Turn:
    """A row's part in a step: its next tokens, and whether they are the last known, so that one is sampled."""

    row: Row
    span: Span

    @property
    def tokens(self) -> list[int]:
        return self.row.tokens[self.span.before : self.span.before + self.span.length]

    @property
    def samples(self) -> bool:
        return self.span.before + self.span.length == len(self.row.tokens)


class Rows:
    """All requests that have not ended. `context` is the model's, in tokens; handles are drawn from `handles`."""

    def __init__(
        self,
        pool: PagePool,
        context: int,
        handles: Iterator[int],
        beginnings: Beginnings,
        *,
        step_tokens: int,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._pool = pool
        self._context = context
        self._step_tokens = step_tokens
        self._max_rows = max_rows
        self._handles = handles
        self._beginnings = beginnings
        self._waiting: deque[Row] = deque()
        self._running: dict[int, Row] = {}  # in the order in which they joined

    @property
    def handles(self) -> list[int]:
        """The handles of all of them."""
        return [*self._running, *(row.handle for row in self._waiting)]

    def context(self, adapter: int) -> int:
        """The longest sequence beside an adapter's virtual tokens: the model's, or what the cache holds of it."""
        return min(self._context, self._held(adapter)) - len(self._beginnings.of(adapter).ids)

    def _held(self, adapter: int) -> int:
        """The longest sequence that the cache holds, with an adapter's virtual tokens."""
        shared = len(self._beginnings.of(adapter).ids) // PAGE
        return (self._pool.num_pages - self._beginnings.num_pages + shared) * PAGE

    def submit(self, prompt: list[int], sampling: Sampling, adapter: int) -> int:
        """A new row at the end of the line; its handle.

        Raises:
            UserError: the prompt leaves no room for an answer, in the context or in the cache.
        """
        bound = "the context is" if self._context <= self._held(adapter) else "the cache holds"
        limit = room_for_answer(prompt, sampling, self.context(adapter), bound=bound)
        handle = next(self._handles)
        tokens = [*self._beginnings.of(adapter).ids, *prompt]
        self._waiting.append(Row(handle, adapter, sampling, tokens, len(tokens), limit))
        return handle

    def leave(self, handle: int) -> None:
        """A row ends, or its client went away; what it read stays to be found by others."""
        row = self._running.pop(handle, None)
        if row is None:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.handle != handle)
        else:
            self._release(row)

    def next_step(self) -> list[Turn]:
        """The turns of the next step, those that share pages side by side; empty if nothing is under way."""
        answering = [row for row in self._running.values() if row.num_cached == len(row.tokens) - 1]
        # Only those that came last give way: never one that has grown before them.
        grown = [row for row in answering if row.handle in self._running and self._grow(row, 1)]
        turns = [Turn(row, Span(1, row.num_cached, row.pages)) for row in grown]
        room = self._step_tokens - len(turns)
        # One at most, the last of them: nobody joins a step that is full.
        reading = [row for row in self._running.values() if row.num_cached < len(row.tokens) - 1]
        for row in reading:
            room -= self._read(row, room, turns)
        while room > 0 and self._waiting and len(self._running) < self._max_rows:
            row = self._waiting[0]
            row.pages = self._pool.share(row.tokens, row.adapter)
            row.num_cached = len(row.pages) * PAGE
            if pages_for(len(row.tokens)) - len(row.pages) > self._pool.num_available:
                self._release(row)
                break
            row.num_cached = self._beginnings.enter(row.pages, row.adapter)
            self._running[row.handle] = self._waiting.popleft()
            room -= self._read(row, room, turns)
        return sorted(turns, key=lambda turn: (turn.row.adapter, turn.row.pages))

    def computed(self, turn: Turn) -> None:
        """The keys and values of a turn are in the cache."""
        turn.row.num_cached += turn.span.length

    def _read(self, row: Row, room: int, turns: list[Turn]) -> int:
        """Let a row read on, as far as there is room; the tokens that it takes."""
        length = min(room, len(row.tokens) - row.num_cached)
        if length <= 0 or not self._grow(row, length):
            return 0
        turns.append(Turn(row, Span(length, row.num_cached, row.pages)))
        # What is written in this very step can be shared in it: each layer writes before it attends.
        self._pool.publish(row.pages, row.tokens[: row.num_cached + length], row.adapter)
        return length

    def _grow(self, row: Row, length: int) -> bool:
        """Pages for the next tokens of a row; others that came later give way. False if it gave way itself."""
        wanted = pages_for(row.num_cached + length) - len(row.pages)
        while wanted > self._pool.num_available:
            last = next(reversed(self._running.values()))
            self._give_way(last)
            if last is row:
                return False
        row.pages.extend(self._pool.take(wanted))
        return True

    def _give_way(self, row: Row) -> None:
        del self._running[row.handle]
        self._release(row)
        self._waiting.appendleft(row)

    def _release(self, row: Row) -> None:
        """Give a row's pages back; the full ones can be found, whether they hold prompt or answer."""
        self._pool.publish(row.pages, row.tokens[: row.num_cached], row.adapter)
        self._pool.give_back(row.pages)
        row.pages, row.num_cached = [], 0
