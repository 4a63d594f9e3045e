"""One row of a file, readable or not, whatever kind of file it stands in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from sartor.formats import strict
from sartor.formats.fields import seen

BOM = b"\xef\xbb\xbf"
_CHUNK = 2**20


class Row(NamedTuple):
    """One readable row: `line` is where it starts, `element` its 1-based number in an array (0 elsewhere).

    `counted`: rows of this array share lines, so that only its number names it.
    """

    line: int
    value: dict[str, Any]
    element: int = 0
    counted: bool = False

    @property
    def place(self) -> int:
        return self.element if self.counted else self.line


class Bad(NamedTuple):
    """One row that cannot be read, with a reason out of `ledger.UNREADABLE`. Its place is that of a `Row`."""

    line: int
    reason: str
    seen: str
    expected: str
    field: str = ""
    element: int = 0
    counted: bool = False

    @property
    def place(self) -> int:
        return self.element if self.counted else self.line


def row_of(value: Any | strict.Malformed, line: int, element: int = 0, *, counted: bool = False) -> Row | Bad:
    """What a JSON value is as a row."""
    if isinstance(value, strict.Malformed):
        return Bad(line, value.reason, value.seen, value.expected, value.field, element, counted)
    if not isinstance(value, dict):
        return Bad(line, "not_an_object", seen(value), "a JSON object", element=element, counted=counted)
    return Row(line, value, element, counted)


def loaded(raw: bytes) -> Any | strict.Malformed:
    """A JSON value, or what is wrong with it."""
    try:
        return strict.loads(raw)
    except strict.Malformed as error:
        return error


def overlong(line: int, what: str, longest: int) -> Bad:
    return Bad(line, "too_long", f"a {what} of over {longest:,} bytes", f"at most {longest:,} bytes")


def lines_of(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its 1-based number, without a byte order mark; None for one that is too long, which is skipped
    piece by piece and never held."""
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest and not line.endswith(b"\n"):
            while (rest := file.readline(_CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line.removeprefix(BOM) if number == 1 else line
