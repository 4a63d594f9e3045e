"""Server-sent events, and noticing that a client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sartor.serve.errors import incident
from sartor.serve.replies import DONE, event

Result = TypeVar("Result")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result] | None:
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


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A reply that is sent event by event, each when it is there.

    A failure after the first event cannot change the status any more: it is sent as an error event, which the official
    client raises, and then raised here for the log.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})  # a proxy passes each event on at once
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = await unless_gone(receive, self._send_all(send))
        if sending is None:
            return
        error = sending.exception()
        if error is not None:
            await _send_part(send, event(incident(scope["state"]["request_id"]).body) + DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if error is not None:
            raise error

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for part in events:
                await _send_part(send, part)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})
