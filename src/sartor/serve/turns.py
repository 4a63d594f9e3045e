"""One generation at a time per engine, in a thread of its own; the others wait in line, in the order they came.

All work of an engine and of its renderers happens on that one thread: tokenizers are not made for several at once, and
torch keeps its inference mode per thread, so a stream must be advanced and closed where it was begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from sartor.generate.protocol import Engine
from sartor.serve.errors import ApiError

MAX_WAITING = 64  # beyond it a client hears "later" at once, instead of waiting for an answer that nobody will read

Step = TypeVar("Step")
Result = TypeVar("Result")


class Turns:
    """An engine, its thread, and the line before it."""

    def __init__(self, engine: Engine, *, max_waiting: int = MAX_WAITING) -> None:
        self.engine = engine
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._turn = asyncio.Lock()
        self._hand = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sartor-engine")

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run a function on the engine's thread, between two tokens of whatever is being generated."""
        return await asyncio.get_running_loop().run_in_executor(self._hand, work)

    def require_room(self) -> None:
        """Refuse a client that would have to wait behind too many.

        Raises:
            ApiError: 429; the official client tries again by itself.
        """
        if self._num_waiting >= self._max_waiting:
            message = f"{self._num_waiting} requests are waiting already. Try again in a moment."
            raise ApiError(429, message, type="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})

    async def steps(self, begin: Callable[[], Generator[Step]]) -> AsyncGenerator[Step]:
        """The steps of a generator when its turn has come, each computed when it is asked for and not before.

        If the consumer stops or is cancelled, the step that is being computed ends, the generator is closed, and the
        next in line begins: closing is queued on the same thread before the turn is given away.
        """
        work = begin()
        self._num_waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._num_waiting -= 1
        try:
            while (step := await self.call(partial(next, work, None))) is not None:
                yield step
        finally:
            self._hand.submit(work.close)
            self._turn.release()

    def close(self) -> None:
        """End the thread, after the step that it is computing."""
        self._hand.shutdown(wait=True)
