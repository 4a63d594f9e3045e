"""One thread per engine, which advances its batch; requests join it, get their pieces as they come, and leave.

All work of an engine and of its renderers happens on that one thread: tokenizers are not made for several at once, and
neither is a batch. What is asked of it (render, join, leave) is done between two steps, in the order in which it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from sartor.generate.protocol import Engine, Failed, lost
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
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
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
        self._door = threading.Lock()  # between closing and what still comes

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run a function on the engine's thread, between two steps of the batch.

        If whoever asked is cancelled before its turn has come, the work is never done.

        Raises:
            ApiError: 503, the server has closed.
        """
        return await asyncio.wrap_future(self._submit(work))

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests under way. Who comes without one costs the engine's thread nothing.

        Raises:
            ApiError: 429, all are taken; the official client tries again by itself.
        """
        if self._num_requests >= self._max_requests:
            message = f"{self._num_requests} requests are under way already. Try again in a moment."
            raise ApiError(429, message, type="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    async def steps(self, begin: Callable[[], Answering]) -> AsyncGenerator[Piece]:
        """The pieces of an answer, each as soon as the batch has computed it.

        If the consumer stops or is cancelled, the answer leaves the batch before its next step.

        Raises:
            ApiError: 400, the engine has no room for it; 503, the server closes before the answer has ended.
            SartorError: the engine refuses it, or failed at it.
        """
        request = _Request(begin())
        try:
            self._submit(partial(self._join, request)).add_done_callback(partial(self._joined, request))
            while True:
                piece = await request.next()
                yield piece
                if piece.finish is not None:
                    return
        finally:
            with contextlib.suppress(ApiError):  # who has closed has left the batch already
                self._submit(partial(self._leave, request))

    def close(self) -> None:
        """End the thread, after the step that it is computing, and close the engine. Closing twice is no error."""
        with self._door:
            if self._closed:
                return
            self._closed = True
            ended = self._hand.submit(self._end)
        self._hand.shutdown(wait=True)
        ended.result()

    def _end(self) -> None:
        for handle in list(self._batch):
            self._fail(handle, _closing())
        self.engine.close()

    def _submit(self, work: Callable[[], Result]) -> Future[Result]:
        with self._door:
            if self._closed:
                raise _closing()
            return self._hand.submit(work)

    def _join(self, request: _Request) -> None:
        request.handle = request.answering.join()
        self._batch[request.handle] = request
        if not self._stepping:
            self._go_on()

    def _joined(self, request: _Request, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            request.tell(error)

    def _leave(self, request: _Request) -> None:
        if request.handle is not None and self._batch.pop(request.handle, None) is not None:
            self.engine.cancel(request.handle)

    def _fail(self, handle: int, error: BaseException) -> None:
        request = self._batch.get(handle)
        if request is not None:
            request.tell(error)  # first: leaving may break as well
            self._leave(request)

    def _step(self) -> None:
        try:
            tokens = self.engine.advance()
        except Failed as failed:
            self._fail(failed.row, failed.error)
            return
        for token in tokens:
            request = self._batch.get(token.row)
            if request is None:
                continue
            piece = request.answering.push(token)
            if piece.finish is not None:
                self._leave(request)
            request.tell(piece)
        for handle in self._batch.keys() - set(self.engine.requests):
            self._fail(handle, lost(handle))

    def _stepped(self, done: Future[None]) -> None:
        """Go on while there is somebody to answer; what breaks a step breaks the answers that were in it."""
        error = done.exception()
        if error is not None:
            for handle in list(self._batch):
                with contextlib.suppress(Exception):  # an engine that is broken for one may be so for all
                    self._fail(handle, error)
        self._go_on()

    def _go_on(self) -> None:
        self._stepping = bool(self._batch)
        if self._stepping:
            with contextlib.suppress(ApiError):  # closing tells the requests itself
                self._submit(self._step).add_done_callback(self._stepped)


def _closing() -> ApiError:
    message = "The server is closing. Ask again when it has started anew."
    return ApiError(503, message, type="server_error", code="closing")
