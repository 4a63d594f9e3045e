"""The quick way for what most rows hold: turns of a role and a text, and nothing else.

It gives the very Chat that the careful way in `turns` would give, or None: then the careful way reads the row, and says
what is wrong with it if anything is. The model's own validator builds all messages at once, from the bytes of a line
even, which saves most of the time.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sartor.formats.strict import num_keys_written
from sartor.formats.turns import LEADING
from sartor.types import Chat, Frozen, Message, Source

_KEYS = frozenset({"role", "content"})
_FIRST = ("", *LEADING)
_UNANSWERABLE = ("", "assistant")
#: A NUL or a quote that is written as a number, or what looks like one.
_HIDDEN = re.compile(rb"\\u00[02][02]").search


class _Row(Frozen):
    messages: tuple[Message, ...]


_OF_BYTES = TypeAdapter(_Row).validator.validate_json
_CHAT = TypeAdapter(Chat).validator.validate_python
_OF_VALUES = TypeAdapter(tuple[Message, ...]).validator.validate_python


def plain_line(raw: bytes, file: str, line: int) -> Chat | None:
    """The conversation in the JSON of `{"messages": [{"role", "content"}, …]}`, if there is nothing to be said of it.

    A doubled key would be overlooked, so the keys are counted, by their quotes. All texts are filled, thus each turn
    has both its keys, and no other if the number is right.
    """
    if _HIDDEN(raw):
        return None
    try:
        messages = _OF_BYTES(raw).messages
    except ValidationError:
        return None
    num_quotes = _quotes_if_plain(messages)
    if num_quotes is None:
        return None
    num_keys = 1 + 2 * len(messages)
    # Two quotes for each key and each text, and those inside the texts: else the keys themselves are counted.
    if raw.count(b'"') != 4 * num_keys - 2 + num_quotes and num_keys_written(raw) != num_keys:
        return None
    chat: Chat = _CHAT({"source": {"file": file, "line": line}, "messages": messages})
    return chat


def plain_chat(messages: Any, source: Source) -> Chat | None:
    """The conversation in a list of `{"role", "content"}`, if there is nothing to be said of it."""
    if type(messages) is not list or not all(type(turn) is dict and turn.keys() == _KEYS for turn in messages):
        return None
    try:
        found = _OF_VALUES(messages)
    except ValidationError:
        return None
    return Chat(source=source, messages=found) if _quotes_if_plain(found) is not None and _is_whole(found) else None


def _quotes_if_plain(messages: tuple[Message, ...]) -> int | None:
    """How many quotes the texts hold, if these are system prompts first, no two answers in a row, no turn of a tool,
    no blank text, an answer at the end; else None.
    """
    before = ""
    num_quotes = 0
    for message in messages:
        role, content = message.role, message.content
        if not content or content.isspace():
            return None
        if role in LEADING:
            if before not in _FIRST:
                return None
        elif role != "user" and (role != "assistant" or before in _UNANSWERABLE):
            return None
        before = role
        num_quotes += content.count('"')
    return num_quotes if before == "assistant" else None


def _is_whole(messages: tuple[Message, ...]) -> bool:
    """No NUL, and no half of a surrogate pair, which the bytes of a line cannot bring here, but a value can."""
    try:
        return not any(b"\0" in message.content.encode("utf-8") for message in messages)
    except UnicodeEncodeError:
        return False
