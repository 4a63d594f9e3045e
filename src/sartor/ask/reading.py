"""What a model said, as the JSON object that it was asked for. Models wrap it into words and fences, and break it off.

Nothing in an answer is an instruction: it is parsed within limits, looked at, and kept as text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sartor.errors import FieldError
from sartor.formats import fields, strict
from sartor.types import Json

#: Braces that are tried as the start of the object: an answer full of them is not worth quadratic work.
_TRIED = 16
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
    said = _THOUGHTS.sub("", text[:_LONGEST])
    at = -1
    for _ in range(_TRIED):
        at = said.find("{", at + 1)
        if at < 0:
            break
        if found := _object_at(said[at:]):
            return found
    raise Unreadable("not_json", f"saw {fields.seen(text)}, expected a JSON object")


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


def _object_at(text: str) -> Json | None:
    """The JSON object with which a text begins, if it does."""
    if strict.too_deep(text.encode("utf-8", "surrogatepass")):
        return None
    try:
        value, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None
