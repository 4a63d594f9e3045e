"""Reading a field of a row: the right value, or a FieldError that says what was seen and what was expected."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from typing import Any

from sartor.errors import FieldError
from sartor.types import Json

#: The longest piece of the user's data in a message, in characters.
SHOWN = 80
#: How alike two keys must be for one to be a typo of the other: `wieght` and `weight` have 0.833.
TYPO = 0.83


def shorten(text: str) -> str:
    """At most 80 characters on one line. What cannot be printed is escaped: a row never drives someone's terminal."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:SHOWN])
    if len(text) <= SHOWN and len(escaped) <= SHOWN:
        return escaped
    return escaped[: SHOWN - 1] + "…"


def seen(value: Any) -> str:
    """A JSON value in plain words: `null`, `the number 3`, `the text "yes"`, `a list of 2`, `the keys a, b`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 64:
        return (
            f"a whole number of {value.bit_length()} bits"  # str() of it may be refused: Python stops at 4,300 digits
        )
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{shorten(value)}"' if value else "an empty text"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return f"the keys {shorten(', '.join(map(str, value)))}" if value else "an empty object"
    return f"a value of the type {type(value).__name__}"


def text(row: Json, key: str, path: str = "") -> str:
    """The text under `key`, which must be there. It may be empty.

    Raises:
        FieldError: the key is missing, or its value is not a clean text.
    """
    if key not in row:
        raise FieldError(path or key, seen=seen(row), expected=f"a text `{key}`")
    return clean(row[key], path or key)


def filled(row: Json, key: str, path: str = "") -> str:
    """The text under `key`, with something in it besides white space.

    Raises:
        FieldError: the key is missing, its value is not a clean text, or it is blank.
    """
    value = text(row, key, path)
    if not value.strip():
        raise FieldError(path or key, seen=seen(value), expected="a text with something in it")
    return value


def optional(row: Json, key: str, path: str = "") -> str:
    """The text under `key`; a missing key and null are an empty text.

    Raises:
        FieldError: the value is not a clean text.
    """
    value = row.get(key)
    return "" if value is None else clean(value, path or key)


def flag(row: Json, key: str) -> bool:
    """The truth value under `key`; tables write it as a text, in small or capital letters.

    Raises:
        FieldError: the key is missing, or its value is neither true nor false.
    """
    if key not in row:
        raise FieldError(key, seen=seen(row), expected=f"`{key}`, true or false")
    value = row[key]
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise FieldError(key, seen=seen(value), expected="true or false")
    return value


def clean(value: Any, path: str) -> str:
    """The value, if it is a text that every tokenizer and every file can hold.

    Raises:
        FieldError: it is not a text, or it holds a NUL or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise FieldError(path, seen=seen(value), expected="a text")
    nul = value.find("\0")
    if nul >= 0:
        raise FieldError(path, seen=f"a NUL as character {nul + 1}", expected="a text without NUL characters")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise FieldError(
                path,
                seen=f"half of a surrogate pair ({half}) as character {error.start + 1}",
                expected="whole Unicode characters",
            ) from error
    return value


def clean_tree(value: Any, path: str) -> None:
    """Check that a value is JSON, with each text, number and key in it. Iterative: depth is not ours to trust.

    Raises:
        FieldError: one of them cannot be kept.
    """
    waiting = [(value, path)]
    while waiting:
        part, place = waiting.pop()
        if isinstance(part, str):
            clean(part, place)
        elif isinstance(part, float) and not math.isfinite(part):
            raise FieldError(place, seen=seen(part), expected="a finite number")
        elif isinstance(part, list):
            waiting.extend((item, f"{place}[{index}]") for index, item in enumerate(part))
        elif isinstance(part, dict):
            for key in part:
                clean(key, place)
            waiting.extend((item, f"{place}.{shorten(key)}") for key, item in part.items())
        elif part is not None and not isinstance(part, bool | int | float):
            raise FieldError(place, seen=seen(part), expected="what JSON can hold")


def items(row: Json, key: str, path: str = "", *, of: str) -> list[Any]:
    """The list under `key`; a missing key and null are an empty list. `of` says what it should hold.

    Raises:
        FieldError: the value is not a list.
    """
    value = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise FieldError(path or key, seen=seen(value), expected=f"a list of {of}")
    return value


def mapping(value: Any, path: str, *, what: str) -> Json:
    """The value, if it is a JSON object. `what` says which one was expected.

    Raises:
        FieldError: it is not an object.
    """
    if not isinstance(value, dict):
        raise FieldError(path, seen=seen(value), expected=what)
    return value


def refuse_typos(row: Json, known: Collection[str], path: str) -> None:
    """Refuse a key that is nearly, but not quite, one that this object lacks: `wieght` would be ignored silently.

    Raises:
        FieldError: naming the key, and the one that was probably meant.
    """
    for key in row.keys() - known:
        near = difflib.get_close_matches(key, sorted(set(known) - row.keys()), n=1, cutoff=TYPO)
        if near:
            raise FieldError(f"{path}.{shorten(key)}", seen=f"the key `{shorten(key)}`", expected=f"`{near[0]}`")
