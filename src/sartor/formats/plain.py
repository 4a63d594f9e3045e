"""The quick way for what most rows hold: turns of a role and a text, and nothing else.

It gives the very Chat that the careful way in `turns` would give, or None: then the careful way reads the row, and says
what is wrong with it if anything is. The model's own validator builds all messages at once, which saves most of the
time.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from sartor.types import Chat, Source

_VALIDATED = TypeAdapter(Chat).validator.validate_python
_LEADING = ("system", "developer")
_FIRST = ("", *_LEADING)
_UNANSWERABLE = ("", "assistant")


def plain_chat(messages: Any, source: Source) -> Chat | None:
    """The conversation in a list of `{"role", "content"}`, if there is nothing to be said of it."""
    if type(messages) is not list or not _is_plain(messages):
        return None
    try:
        chat: Chat = _VALIDATED({"source": source, "messages": messages})
    except ValidationError:
        return None
    return chat


def _is_plain(messages: list[Any]) -> bool:
    """System prompts first, no two answers in a row, no turn of a tool, no blank text, an answer at the end."""
    before = ""
    contents = []
    for message in messages:
        if type(message) is not dict or len(message) != 2 or "role" not in message or "content" not in message:
            return False
        role, content = message["role"], message["content"]
        if type(content) is not str:
            return False
        if role == "user" or (role == "assistant" and before not in _UNANSWERABLE):
            if not content or content.isspace():
                return False
        elif role not in _LEADING or before not in _FIRST:
            return False
        contents.append(content)
        before = role
    return before == "assistant" and _is_clean("".join(contents))


def _is_clean(text: str) -> bool:
    """Without a NUL, and without half of a surrogate pair."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
