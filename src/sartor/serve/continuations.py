"""`POST /v1/completions`: running text in, what comes after it out. For what was trained on text, and bases without a
chat template."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from functools import partial
from typing import Literal, NotRequired, TypedDict

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from sartor.generate.protocol import FinishReason
from sartor.serve.completions import answered
from sartor.serve.desk import Desk, Served
from sartor.serve.question import go_on
from sartor.serve.replies import DONE, Envelope, Usage, event, usage
from sartor.serve.streams import EventStream, reply
from sartor.serve.wire import TextRequest, read


class TextChoice(TypedDict):
    """What comes after one of the prompts, or a part of it."""

    text: str
    index: int
    logprobs: None
    finish_reason: FinishReason | None


class Continuation(TypedDict):
    """The body of an answer, and of each event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]


async def continued(desk: Desk, http: Request) -> Response:
    """Answer one request.

    Raises:
        ApiError: the request cannot be answered as it is.
    """
    request = read(TextRequest, await http.body())
    model = desk.find(request.model)
    identifier = f"cmpl-{secrets.token_hex(12)}"
    envelope = Envelope(request.model, model.fingerprint, request.wants_usage, id=identifier)
    if not request.stream:
        return await reply(http.receive, _whole(model, request, envelope), JSONResponse)
    events = _events(model, request, envelope)
    return await reply(http.receive, anext(events), partial(EventStream, rest=events))


async def _whole(model: Served, request: TextRequest, envelope: Envelope) -> Continuation:
    """All prompts together; if one cannot be answered, none is."""
    working = [asyncio.ensure_future(_one(model, request, index)) for index in range(len(request.prompt))]
    try:
        done = await asyncio.gather(*working)
    finally:
        for work in working:
            work.cancel()
        await asyncio.wait(working)
    counts = usage(sum(counted["prompt_tokens"] for _, counted in done), sum(c["completion_tokens"] for _, c in done))
    return _body(envelope, [choice for choice, _ in done], counts)


async def _one(model: Served, request: TextRequest, index: int) -> tuple[TextChoice, Usage]:
    parts: list[str] = []
    finish: FinishReason | None = None
    async with answered(model, partial(go_on, request, request.prompt[index], model)) as (question, pieces):
        async for piece in pieces:
            parts.append(piece.text)
            finish = piece.finish
    return _choice("".join(parts), finish, index), usage(len(question.prompt), len(parts))


async def _events(model: Served, request: TextRequest, envelope: Envelope) -> AsyncGenerator[bytes]:
    """The first event comes with the first token, with text or without; usage and the end mark follow the last."""
    num_tokens = 0
    async with answered(model, partial(go_on, request, request.prompt[0], model)) as (question, pieces):
        async for piece in pieces:
            num_tokens += 1
            if num_tokens == 1 or piece.text or piece.finish:
                yield event(_part(envelope, [_choice(piece.text, piece.finish)]))
    if envelope.wants_usage:
        yield event(_part(envelope, [], usage(len(question.prompt), num_tokens)))
    yield DONE


def _choice(text: str, finish: FinishReason | None, index: int = 0) -> TextChoice:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _part(envelope: Envelope, choices: list[TextChoice], counts: Usage | None = None) -> Continuation:
    """An event: `usage` is there only when asked for, and null but in the last one."""
    part = _body(envelope, choices, counts)
    if not envelope.wants_usage:
        del part["usage"]
    return part


def _body(envelope: Envelope, choices: list[TextChoice], counts: Usage | None) -> Continuation:
    return {
        "id": envelope.id,
        "object": "text_completion",
        "created": envelope.created,
        "model": envelope.model,
        "system_fingerprint": envelope.fingerprint,
        "choices": choices,
        "usage": counts,
    }
