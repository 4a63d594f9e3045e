"""The quick way for what most rows hold: turns of a role and a text, and nothing else.

It gives the very Chat that the careful way in `turns` would give, or None: then the careful way reads the row, and says
what is wrong with it if anything is. The model's own validator builds all messages at once, from the bytes of a line
even, which saves most of the time.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from sartor.formats.strict import num_keys_written
from sartor.types import Chat, Frozen, Message, Source

_KEYS = frozenset({"role", "content"})
_LEADING = ("system", "developer")
_FIRST = ("", *_LEADING)
_UNANSWERABLE = ("", "assistant")


class _Row(Frozen):
    messages: tuple[Message, ...]


_OF_BYTES = TypeAdapter(_Row).validator.validate_json
_OF_VALUES = TypeAdapter(tuple[Message, ...]).validator.validate_python


def plain_line(raw: bytes, source: Source) -> Chat | None:
    """The conversation in the JSON of `{"messages": [{"role", "content"}, …]}`, if there is nothing to be said of it.

    A doubled key would be overlooked, so the keys are counted: by their quotes where no text has any, else one by one.
    """
    try:
        messages = _OF_BYTES(raw).messages
    except ValidationError:
        return None
    num_keys = 1 + 2 * len(messages)
    if raw.count(b'"') != 4 * num_keys - 2 and num_keys_written(raw) != num_keys:
        return None
    return Chat(source=source, messages=messages) if _is_plain(messages) else None


def plain_chat(messages: Any, source: Source) -> Chat | None:
    """The conversation in a list of `{"role", "content"}`, if there is nothing to be said of it."""
    if type(messages) is not list or not all(type(turn) is dict and turn.keys() == _KEYS for turn in messages):
        return None
    try:
        found = _OF_VALUES(messages)
    except ValidationError:
        return None
    return Chat(source=source, messages=found) if _is_plain(found) and _is_whole(found) else None


def _is_plain(messages: tuple[Message, ...]) -> bool:
    """System prompts first, no two answers in a row, no turn of a tool, no blank text, no NUL, an answer at the end."""
    before = ""
    for message in messages:
        role, content = message.role, message.content
        if message.model_fields_set != _KEYS or "\0" in content:
            return False
        if role == "user" or (role == "assistant" and before not in _UNANSWERABLE):
            if not content or content.isspace():
                return False
        elif role not in _LEADING or before not in _FIRST:
            return False
        before = role
    return before == "assistant"


def _is_whole(messages: tuple[Message, ...]) -> bool:
    """No half of a surrogate pair, which the bytes of a line cannot bring here, but a value can."""
    try:
        for message in messages:
            message.content.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
