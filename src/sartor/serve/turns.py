"""One thread per engine, which advances its batch; requests join it, get their pieces as they come, and leave.

All work of an engine and of its renderers happens on that one thread: tokenizers are not made for several at once, and
neither is a batch. What is asked of it (render, join, leave) is done between two steps, in the order in which it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from sartor.generate.protocol import Engine
from sartor.serve.answer import Answering, Piece
from sartor.serve.errors import ApiError

MAX_REQUESTS = 256  # beyond it a client hears "later" at once, instead of waiting for an answer that nobody will read

Result = TypeVar("Result")


class _Request:
    """One answer under way, and the way to whoever waits for it. `handle` is the engine's thread's business."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.handle: int | None = None
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

    def tell(self, news: Piece | BaseException) -> None:
        """From the engine's thread: a piece, or what went wrong."""
        self._loop.call_soon_threadsafe(self._ready.put_nowait, news)

    async def next(self) -> Piece:
        news = await self._ready.get()
        if isinstance(news, BaseException):
            raise news
        return news


class Turns:
    """An engine, its thread, and the requests in its batch."""

    def __init__(self, engine: Engine, *, max_requests: int = MAX_REQUESTS) -> None:
        self.engine = engine
        self._max_requests = max_requests
        self._num_requests = 0
        self._hand = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sartor-engine")
        self._batch: dict[int, _Request] = {}  # from here on: the engine's thread's business
        self._stepping = False
        self._closed = False

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run a function on the engine's thread, between two steps of the batch."""
        return await asyncio.get_running_loop().run_in_executor(self._hand, work)

    def require_room(self) -> None:
        """Refuse a client that would be one too many.

        Raises:
            ApiError: 429; the official client tries again by itself.
        """
        if self._num_requests >= self._max_requests:
            message = f"{self._num_requests} requests are under way already. Try again in a moment."
            raise ApiError(429, message, type="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})

    async def steps(self, begin: Callable[[], Answering]) -> AsyncGenerator[Piece]:
        """The pieces of an answer, each as soon as the batch has computed it.

        If the consumer stops or is cancelled, the answer leaves the batch before its next step.
        """
        request = _Request(begin())
        self._num_requests += 1
        try:
            self._submit(partial(self._join, request), partial(self._joined, request))
            while True:
                piece = await request.next()
                yield piece
                if piece.finish is not None:
                    return
        finally:
            self._num_requests -= 1
            self._hand.submit(self._leave, request)

    def close(self) -> None:
        """End the thread, after the step that it is computing."""
        self._closed = True
        self._hand.shutdown(wait=True)

    def _submit(self, work: Callable[[], None], after: Callable[[Future[None]], None]) -> None:
        self._hand.submit(work).add_done_callback(after)

    def _join(self, request: _Request) -> None:
        request.handle = request.answering.join()
        self._batch[request.handle] = request
        if not self._stepping:
            self._stepping = True
            self._submit(self._step, self._stepped)

    def _joined(self, request: _Request, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            request.tell(error)

    def _leave(self, request: _Request) -> None:
        if request.handle is not None and self._batch.pop(request.handle, None) is not None:
            self.engine.cancel(request.handle)

    def _step(self) -> None:
        for token in self.engine.advance():
            request = self._batch.get(token.row)
            if request is None:
                continue
            piece = request.answering.push(token)
            if piece.finish is not None:
                self._leave(request)
            request.tell(piece)

    def _stepped(self, done: Future[None]) -> None:
        """Go on while there is somebody to answer; what breaks a step breaks the answers that were in it."""
        error = done.exception()
        if error is not None:
            for request in list(self._batch.values()):
                self._leave(request)
                request.tell(error)
        self._stepping = bool(self._batch) and not self._closed
        if self._stepping:
            self._submit(self._step, self._stepped)
