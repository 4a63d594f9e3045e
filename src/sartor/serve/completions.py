"""`POST /v1/chat/completions`: a request in, an answer out, whole or as a stream; and into the log, if there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from sartor.generate.protocol import FinishReason
from sartor.serve.answer import Answering, Piece, Question
from sartor.serve.chat_log import ChatLog
from sartor.serve.desk import Desk, Served
from sartor.serve.question import ask
from sartor.serve.replies import DONE, Completion, Delta, Envelope, event, usage
from sartor.serve.streams import EventStream, reply
from sartor.serve.wire import ChatRequest, parse


async def complete(desk: Desk, http: Request, log: ChatLog | None = None) -> Response:
    """Answer one request.

    Raises:
        ApiError: the request cannot be answered as it is.
    """
    request = parse(await http.body())
    model = desk.find(request.model)
    envelope = Envelope(request.model, model.fingerprint, request.wants_usage)
    keeping = _Keeping(request, log)
    if not request.stream:
        return await reply(http.receive, _whole(model, envelope, keeping), JSONResponse)
    events = _events(model, envelope, keeping)
    return await reply(http.receive, anext(events), partial(EventStream, rest=events))


@dataclass(slots=True)
class _Keeping:
    """An answer on its way into the log."""

    request: ChatRequest
    log: ChatLog | None
    parts: list[str] = field(default_factory=list)

    async def done(self, finish: FinishReason) -> None:
        """It is whole: only then it is kept. The disk is not waited for on the loop that answers others."""
        if self.log is not None:
            await asyncio.to_thread(self.log.keep, self.request, "".join(self.parts), finish)


@asynccontextmanager
async def answered(
    model: Served, asked: Callable[[], Question]
) -> AsyncGenerator[tuple[Question, AsyncGenerator[Piece]]]:
    """A place, and in it the question, which is made on the engine's thread, and the pieces of its answer."""
    turns = model.turns
    with turns.place():
        question = await turns.call(asked)
        async with aclosing(turns.steps(partial(Answering, turns.engine, model.renderer, question))) as pieces:
            yield question, pieces


async def _whole(model: Served, envelope: Envelope, keeping: _Keeping) -> Completion:
    parts = keeping.parts
    finish: FinishReason = "stop"
    async with answered(model, partial(ask, keeping.request, model)) as (question, pieces):
        async for piece in pieces:
            parts.append(piece.text)
            finish = piece.finish or finish
    await keeping.done(finish)
    return envelope.completion("".join(parts), finish, usage(len(question.prompt), len(parts)))


async def _events(model: Served, envelope: Envelope, keeping: _Keeping) -> AsyncGenerator[bytes]:
    """The first chunk has the role; the last has the finish reason; usage and the end mark follow."""
    num_tokens = 0
    async with answered(model, partial(ask, keeping.request, model)) as (question, pieces):
        async for piece in pieces:
            num_tokens += 1
            keeping.parts.append(piece.text)
            delta: Delta = {"content": piece.text} if piece.text else {}
            if num_tokens == 1:
                delta = {"role": "assistant", "content": piece.text}
            if delta:
                yield event(envelope.chunk(delta))
            if piece.finish is not None:
                await keeping.done(piece.finish)
                yield event(envelope.chunk({}, piece.finish))
    if envelope.wants_usage:
        yield event(envelope.usage_chunk(usage(len(question.prompt), num_tokens)))
    yield DONE
