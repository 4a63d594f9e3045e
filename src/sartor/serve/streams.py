"""Server-sent events, and noticing that a client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sartor.serve.errors import from_error
from sartor.serve.replies import DONE, event

Result = TypeVar("Result")


async def unless_gone(receive: Receive, work: Awaitable[Result]) -> asyncio.Task[Result] | None:
    """Work, finished, as its task (with its result or exception); `None` if the client went away first.

    Then the work is cancelled, so its place in the line and the engine are free again.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def reply(receive: Receive, work: Awaitable[Result], made: Callable[[Result], Response]) -> Response:
    """The response that is made of the result of work. If the client went away first, nobody reads it."""
    done = await unless_gone(receive, work)
    return Response(status_code=204) if done is None else made(done.result())


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A reply that is sent event by event, each when it is there; the first one must be, before it begins.

    So a request that fails before it has a status of its own. A later failure cannot change the status any more: it is
    sent as an error event, which the official client raises.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})  # a proxy passes each event on at once
        del self.headers["content-length"]
        self._first, self._rest = first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = await unless_gone(receive, self._send_all(send))
        if sending is None:
            return
        error = sending.exception()
        if error is not None:
            await _send_part(send, event(from_error(error, scope).body) + DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        await _send_part(send, self._first)
        async for part in self._rest:
            await _send_part(send, part)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})
