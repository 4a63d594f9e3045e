"""Chats of our own server, as `sartor serve --log-chats FILE` writes them: only those whose users agreed.

Each answer becomes one conversation that ends on it; earlier answers are context only, for they have lines of their
own. A conversation's turns share their origin, so they stay on one side of a split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from sartor import durable
from sartor.collect import Found, Place, Trip, not_taken, readable
from sartor.collect.logged import KIND, Logged
from sartor.data.reading.row import lines_of
from sartor.formats import strict
from sartor.types import Chat, Frozen, LedgerEntry, Message, Source, digest_of

SUMMARY = "chats of our own server whose users agreed (`sartor serve --log-chats`)"

#: Longest line: what one request may have, and its answer.
CHAT_BYTES = 64 * 2**20
MEDIA_TYPE = "application/jsonl"


class Config(Frozen):
    """A log of chats. `models`: only answers of these; all where empty."""

    place: str
    root: str = ""
    models: tuple[str, ...] = ()


def matches(place: str, root: Path) -> bool:
    """A file whose first line is the heading of such a log."""
    path = root / place
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(1024)
    try:
        value = json.loads(first)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("kind") == KIND


def find(config: Config, trip: Trip) -> Iterator[Found]:
    """A conversation for each line of a user who agreed and an answer that is whole."""
    path, place = Path(config.root) / config.place, readable(config.place)
    if trip.only == "documents":
        yield not_taken(place, "not_asked_for", "only documents are wanted")
        return
    digest = durable.sha256(path)
    time, size = trip.time_of(place, digest), path.stat().st_size
    yield Place(place=place, digest=digest, time=time, num_bytes=size, media_type=MEDIA_TYPE, about={"kind": KIND})
    with path.open("rb") as file:
        for number, line in lines_of(file, CHAT_BYTES):
            yield from _read(line, number, place, config.models)


def _read(line: bytes | None, number: int, place: str, models: tuple[str, ...]) -> Iterator[Found]:
    def refused(reason: str, detail: str, field: str = "") -> LedgerEntry:
        return LedgerEntry(action="dropped", file=place, line=number, field=field, reason=reason, detail=detail)

    if line is None:
        yield refused("too_long", f"a line of over {CHAT_BYTES:,} bytes")
        return
    try:
        value = strict.loads(line)
        if isinstance(value, dict) and value.get("kind") == KIND:
            return
        logged = Logged.model_validate(value, strict=False)
    except strict.Malformed as error:
        yield refused(error.reason, error.message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        yield refused("field", first["msg"], ".".join(map(str, first["loc"])))
    else:
        reason, detail = _problem(logged, models)
        yield refused(reason, detail) if reason else _chat(logged, number, place)


def _problem(logged: Logged, models: tuple[str, ...]) -> tuple[str, str]:
    """Why a chat is not taken: a reason and what was seen; empty where it is."""
    reasons = {
        "no_consent": (not logged.consent, "the request did not say `store: true`"),
        "other_model": (bool(models) and logged.model not in models, f"answered by {logged.model}"),
        "unfinished": (logged.finish != "stop", f"the answer ended by {logged.finish}"),
        "empty": (not logged.answer.strip(), "the answer has no text"),
    }
    return next(((reason, detail) for reason, (applies, detail) in reasons.items() if applies), ("", ""))


def _chat(logged: Logged, number: int, place: str) -> Chat:
    context = tuple(
        turn.model_copy(update={"weight": 0.0}) if turn.role == "assistant" else turn for turn in logged.request
    )
    return Chat(
        source=Source(file=place, line=number, origin=_conversation(logged)),
        messages=(*context, Message(role="assistant", content=logged.answer)),
        tools=logged.tools,
    )


def _conversation(logged: Logged) -> str:
    """What the turns of one conversation share: the name that the client gave it, or how it begins."""
    if named := logged.metadata.get("conversation"):
        return f"conversation:{named}"
    first = next((place for place, turn in enumerate(logged.request) if turn.role == "user"), len(logged.request))
    return f"conversation:{digest_of([turn.model_dump() for turn in logged.request[: first + 1]])[:16]}"
