"""JSON as it is written down, without the leniency of the standard library: every surprise has a name.

Refused besides bad syntax: bytes that are not UTF-8, a byte order mark, the same key twice, NaN and Infinity (also as
`1e999`), integers of thousands of digits, nesting that would exhaust the stack. The nesting is measured before parsing.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pydantic_core import from_json

from sartor.errors import DataError
from sartor.formats.fields import shorten

#: Deepest nesting of a row. Tool schemas of real APIs stay under 20; Python's own parser breaks at about 1,000.
DEPTH = 64
#: Longest integer, in digits: Python's own bound on converting text to int, which is quadratic.
DIGITS = 4300

#: A bracket, or a whole string: group 1 is its closing quote, empty where the text ends inside it. Possessive, so that
#: a string of millions of escapes keeps no backtracking state.
TOKEN = re.compile(rb'[\[\]{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+("?+)', re.DOTALL)
_UNSURE = object()
_NEVER = (-1, -1)
OPENING, CLOSING = frozenset(b"[{"), frozenset(b"]}")


class Malformed(DataError):
    """Not JSON that we read: `reason` is the ledger's word, `at` the 0-based character where it goes wrong."""

    def __init__(self, reason: str, *, seen: str, expected: str, field: str = "", at: int = 0) -> None:
        super().__init__(f"saw {seen}, expected {expected}", hint="correct the row, or drop it")
        self.reason = reason
        self.seen = seen
        self.expected = expected
        self.field = field
        self.at = at


def loads(raw: bytes) -> Any:
    """The JSON value in UTF-8 bytes.

    Raises:
        Malformed: with the reason syntax, encoding, too_deep, duplicate_key or not_a_number.
    """
    value = _quick(raw)
    if value is _UNSURE:
        return careful(raw)
    return value


def careful(raw: bytes) -> Any:
    """What `loads` gives, without the quick way: as slow as it has to be to say what is wrong. Raises as `loads`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"the byte 0x{raw[error.start]:02x} at byte {error.start + 1}"
        raise Malformed("encoding", seen=where, expected="UTF-8", at=error.start) from error
    if text.startswith("\ufeff"):
        raise Malformed("encoding", seen="a byte order mark", expected="one at the start of the file at most")
    if too_deep(raw):
        raise Malformed("too_deep", seen=f"brackets nested deeper than {DEPTH}", expected=f"at most {DEPTH} levels")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        found = f"`{shorten(text[error.pos : error.pos + 30])}`" if error.pos < len(text) else "the end"
        raise Malformed(
            "syntax", seen=f"{found} at character {error.pos + 1}", expected=_expected(error.msg), at=error.pos
        ) from error


def _quick(raw: bytes) -> Any:
    """The value by a parser that is several times as fast, where it is certain to be the same; else _UNSURE.

    That parser refuses what `careful` refuses, but for infinities, a nesting of up to 200, and doubled keys. So the
    first two are looked for in what it gives, and the keys are counted, in the bytes and in the value. Where no text
    has a quote in it, counting the quotes is enough: each key and each text has two, and a doubled key has its own.
    """
    try:
        value = from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return _UNSURE
    num_keys, num_texts = _counted(value)
    if raw.count(b'"') == 2 * (num_keys + num_texts) or num_keys_written(raw) == num_keys:
        return value
    return _UNSURE


def _counted(value: Any) -> tuple[int, int]:
    """How many keys and how many other texts a value has; less than none where it is infinite or nearly too deep."""
    level, num_keys, num_texts = [value], 0, 0
    for _ in range(DEPTH):
        inner: list[Any] = []
        for part in level:
            kind = type(part)
            if kind is str:
                num_texts += 1
            elif kind is dict:
                num_keys += len(part)
                inner += part.values()
            elif kind is list:
                inner += part
            elif kind is float and not math.isfinite(part):
                return _NEVER
        if not inner:
            return num_keys, num_texts
        level = inner
    return _NEVER


def num_keys_written(raw: bytes) -> int | None:
    """How many keys stand in bytes that are JSON, or more; None where a look at what precedes each colon cannot say.

    A quote ends a key, if it is not escaped: then it is part of a text. An escaped backslash before it, or white space
    between it and the colon, is rare enough to leave it to others.
    """
    num = 0
    *before_colons, _ = raw.split(b":")
    for piece in before_colons:
        end = piece[-2:]
        if end[-1:] == b'"':
            if end != b'\\"':
                num += 1
            elif piece[-3:-2] == b"\\":
                return None
        elif end[-1:].isspace() and piece.rstrip().endswith(b'"'):
            return None
    return num


def too_deep(raw: bytes) -> bool:
    """Is anything nested deeper than DEPTH? Linear, without recursion. Up to the first syntax error this and the
    parser see the same tokens, so the parser never goes deeper than what was counted here.
    """
    if raw.count(b"[") + raw.count(b"{") <= DEPTH:
        return False
    depth = 0
    for token in TOKEN.finditer(raw):
        first = raw[token.start()]
        if first in OPENING:
            depth += 1
            if depth > DEPTH:
                return True
        elif first in CLOSING:
            depth -= 1
    return False


def _expected(message: str) -> str:
    if message.startswith("Unterminated string"):
        return "a closing quote for the string that starts there"
    if message.startswith("Expecting "):
        words = message.removeprefix("Expecting ").removesuffix(" delimiter")
        return f"a {words}" if words[0].isalpha() else words
    return "nothing after the value" if message == "Extra data" else f"JSON ({message.lower().removesuffix(' at')})"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                shown = shorten(name) or '""'
                raise Malformed("duplicate_key", seen=f"the key `{shown}` twice", expected="each key once", field=shown)
            names.add(name)
    return made


def _constant(name: str) -> Any:
    raise Malformed("not_a_number", seen=name, expected="a finite number")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Malformed("not_a_number", seen=f"the number {shorten(digits)}", expected="a number that a float can hold")
    return number


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Malformed("not_a_number", seen=f"an integer of {len(digits)} digits", expected=f"at most {DIGITS} digits")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float)
