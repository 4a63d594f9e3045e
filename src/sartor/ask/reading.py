"""What a model said, as the JSON object that it was asked for. Models wrap it into words and fences, and break it off.

Nothing in an answer is an instruction: it is parsed within limits, looked at, and kept as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sartor.errors import FieldError
from sartor.formats import fields, strict
from sartor.types import Json

#: Braces that are tried as the start of an object: an answer full of them is not worth quadratic work.
_TRIED = 32
#: The longest answer that is searched, in characters. What was asked for is a few thousand.
_LONGEST = 200_000
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
#: Models put line ends into strings; the standard says `\n`. Nothing else is forgiven.
_DECODER = json.JSONDecoder(strict=False)


class Unreadable(Exception):
    """An answer that is not what was asked for: `reason` is a word for the ledger, `detail` what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def object_of(text: str) -> Json:
    """The first JSON object in an answer.

    Raises:
        Unreadable: there is none.
    """
    for found in _objects_in(_said(text)):
        return found
    raise Unreadable("not_json", f"saw {fields.seen(text)}, expected a JSON object")


def objects_of(text: str, key: str) -> tuple[list[Any], bool]:
    """The list under a key of the object in an answer, and whether it is whole: of one that breaks off, what came
    before that.

    Raises:
        Unreadable: there is neither.
    """
    found = object_of(text)
    if key in found:
        if isinstance(found[key], list):
            return found[key], True
        raise Unreadable("wrong_keys", f"saw {fields.seen(found[key])}, expected the list `{key}`")
    said = _said(text)
    members = list(_objects_in(said[said.find(f'"{key}"') :])) if f'"{key}"' in said else []
    if not members:
        raise Unreadable("wrong_keys", f"saw {fields.seen(found)}, expected the list `{key}`")
    return members, False


def filled(value: Json, key: str) -> str:
    """The text under a key, without the white space around it.

    Raises:
        Unreadable: it is missing, no clean text, or blank.
    """
    try:
        return fields.filled(value, key).strip()
    except FieldError as error:
        raise Unreadable("wrong_keys", f"`{error.field}`: {error.message}") from error


def schema_of(**described: str) -> Json:
    """The JSON Schema of an object of texts, each with what it is for. Strict, as OpenAI's API wants it."""
    properties: dict[str, Any] = {key: {"type": "string", "description": what} for key, what in described.items()}
    return {"type": "object", "properties": properties, "required": list(described), "additionalProperties": False}


def _said(text: str) -> str:
    return _THOUGHTS.sub("", text[:_LONGEST])


def _objects_in(text: str) -> Iterator[Json]:
    """The JSON objects in a text, one after the other; what stands inside of one is part of it."""
    at = 0
    for _ in range(_TRIED):
        at = text.find("{", at)
        if at < 0:
            return
        value, length = _object_at(text[at:])
        if value:
            yield value
        at += length or 1


def _object_at(text: str) -> tuple[Json, int]:
    """The JSON object with which a text begins, and its length; an empty one where there is none."""
    if strict.too_deep(text.encode("utf-8", "surrogatepass")):
        return {}, 0
    try:
        value, length = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return {}, 0
    return (value, length) if isinstance(value, dict) else ({}, 0)
