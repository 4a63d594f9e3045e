"""The elements of a JSON array, cut by their brackets from a stream of bytes that is never held whole.

An element that is not JSON leaves no trust in what follows it (a lost quote turns all later text inside out), so bad
syntax is a break: the elements before it are given, then the file is refused with the line and the column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from sartor.data.reading.row import BOM
from sartor.errors import DataError, Where
from sartor.formats import strict
from sartor.formats.fields import shorten

_CHUNK = 2**20
_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb"[^\s,\[\]{}\"]*")


class _Window:
    """The part of the file that is held: it grows at its end, and is given up from its front, whose place it knows."""

    def __init__(self, file: BinaryIO, label: str, longest: int) -> None:
        self.file, self.label, self.longest = file, label, longest
        self.data, self.start = b"", 0
        self.line, self.column = 1, 1
        self.num_given = 0

    def grow(self) -> bool:
        """Read on; False at the end of the file. Twice as much each time, so that rescanning stays linear."""
        held = self.data[self.start :]
        chunk = self.file.read(max(_CHUNK, len(held)))
        self.data, self.start = held + chunk, 0
        return bool(chunk)

    def take(self, size: int) -> bytes:
        """Give up `size` bytes at the front."""
        taken = self.data[self.start : self.start + size]
        self.start += size
        *before, last = taken.decode("utf-8", "replace").split("\n")
        self.line += len(before)
        self.column = len(last) + 1 if before else self.column + len(last)
        return taken

    def skip_space(self) -> bytes:
        """Skip white space, and show the byte after it; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.data, self.start)
            self.take(match.end() - match.start() if match else 0)
            if self.start < len(self.data):
                return self.data[self.start : self.start + 1]
            if not self.grow():
                return b""

    def broken(self, expected: str, *, at: tuple[int, int] | None = None, seen: str = "") -> DataError:
        """The array breaks here, or at the given line and column."""
        line, column = at or (self.line, self.column)
        found = seen or self.next_piece()
        return DataError(
            f"the JSON array breaks after {self.num_given:,} rows: saw {found}, expected {expected}",
            hint="correct the file at this place; one object per line (JSONL) would lose only the broken row",
            where=Where(self.label, line, column=column),
        )

    def next_piece(self) -> str:
        piece = self.data[self.start : self.start + 30].decode("utf-8", "replace")
        return f"`{shorten(piece)}`" if piece else "the end of the file"


def elements(file: BinaryIO, label: str, longest: int) -> Iterator[tuple[int, Any | strict.Malformed]]:
    """The 1-based line on which each element starts, and its value, or why it is refused (never for its syntax).

    No element may have more than `longest` bytes.

    Raises:
        DataError: the array breaks, with the line, the column, and the number of elements before the break.
    """
    window = _Window(file, label, longest)
    for size in _sizes(window):
        yield window.line, _loaded(window, size)


def share_lines(file: BinaryIO, label: str, longest: int) -> bool:
    """Do two elements start on one line, so that a line does not name them? `json.dump` writes all of them on one."""
    window = _Window(file, label, longest)
    last = 0
    try:
        for _ in _sizes(window):
            if window.line == last:
                return True
            last = window.line
    except DataError:  # the array breaks there: who reads the elements says so
        pass
    return False


def _sizes(window: _Window) -> Iterator[int]:
    """The length in bytes of each element, which stands at the window's front for as long as it is looked at."""
    window.skip_space()
    if window.data.startswith(BOM):
        window.start = len(BOM)
        window.skip_space()
    window.take(1)
    if window.skip_space() == b"]":
        window.take(1)
    else:
        yield from _until_closed(window)
    if window.skip_space():
        raise window.broken("nothing after the closing bracket")


def _until_closed(window: _Window) -> Iterator[int]:
    while True:
        window.skip_space()
        size = _measure(window)
        if size > window.longest:
            raise _overlong(window)
        yield size
        window.take(size)
        window.num_given += 1
        separator = window.skip_space()
        if separator == b"]":
            window.take(1)
            return
        if separator != b",":
            raise window.broken("`,` or `]` after an element")
        window.take(1)


def _measure(window: _Window) -> int:
    """The length in bytes of the element at the window's front, which grows until it holds all of it."""
    first = window.skip_space()
    if first not in (b"{", b"[", b'"'):
        return _measure_scalar(window)
    at, depth = 0, 0
    while True:
        token = strict.TOKEN.search(window.data, window.start + at)
        byte = window.data[token.start()] if token else None
        if token is None or (byte == ord('"') and not token[1]):
            at = (token.start() if token else len(window.data)) - window.start
            _grow_inside(window)
            continue
        at = token.end() - window.start
        depth += (byte in strict.OPENING) - (byte in strict.CLOSING)
        if depth == 0:
            return at


def _measure_scalar(window: _Window) -> int:
    while True:
        match = _SCALAR.match(window.data, window.start)
        size = match.end() - match.start() if match else 0
        if window.start + size < len(window.data):
            break
        _grow_inside(window)
    if not size:
        raise window.broken("an element")
    return size


def _grow_inside(window: _Window) -> None:
    """Read on inside an element. Where there is no more, its own syntax often says best where it went wrong."""
    held = len(window.data) - window.start
    if held > window.longest:
        raise _overlong(window)
    if not window.grow():
        _loaded(window, held)
        raise window.broken("the rest of this element", seen="the end of the file")


def _overlong(window: _Window) -> DataError:
    return window.broken(f"an element of at most {window.longest:,} bytes (is a bracket or a quote missing?)")


def _loaded(window: _Window, size: int) -> Any | strict.Malformed:
    """Only bad syntax breaks the array. Whatever else there is to refuse costs one row."""
    raw = window.data[window.start : window.start + size]
    try:
        return strict.loads(raw)
    except strict.Malformed as error:
        if error.reason != "syntax":
            return error
        before = raw.decode("utf-8")[: error.at].split("\n")
        line = window.line + len(before) - 1
        column = (window.column if len(before) == 1 else 1) + len(before[-1])
        seen = error.seen.partition(" at character")[0]
        raise window.broken(error.expected, at=(line, column), seen=seen) from error
