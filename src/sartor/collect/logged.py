"""A line of our own server's log of chats: what `serve/chat_log.py` writes and `collect/chats.py` reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sartor.types import Frozen, Json, Message

#: What makes a file known as such a log.
KIND = "sartor.chats"


class Heading(Frozen):
    """The first line of a log, and one more for each start of the server."""

    kind: Literal["sartor.chats"] = "sartor.chats"
    version: Literal[1] = 1
    started: str


class Logged(Frozen):
    """One finished chat. `consent`: the request said `store: true`; `finish`: why the answer ended."""

    time: str
    consent: bool
    model: str
    request: tuple[Message, ...]
    tools: tuple[Json, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)
    answer: str
    finish: str
