"""Rows of CSV and TSV, as RFC 4180 has them: a header, quoted cells that may hold line ends, doubled quotes.

A row is named by the line on which it starts. A quote that nothing closes would swallow all that follows: then only the
line with the quote is bad, and reading goes on behind it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from sartor.data.reading.row import Bad, Row, lines_of, loaded, overlong
from sartor.errors import DataError, Where
from sartor.formats import strict
from sartor.formats.fields import seen, shorten

DELIMITERS = ",;\t|"
#: Columns that hold JSON; elsewhere only what is clearly a turn or a list of turns is taken for more than a text.
STRUCTURES = frozenset({"messages", "conversations", "tools", "functions", "history", "steps"})

#: Most lines of one cell: so many are held to be read again, where a quote turns out to be closed by nothing.
MOST_LINES = 100_000

_QUOTED = re.compile(r'((?:[^"]++|"")*+)("?)')

#: What `surrogateescape` makes of bytes that are not UTF-8.
_NO_UTF8 = re.compile("[\udc80-\udcff]")

Line = tuple[int, bytes | None]


@dataclass(slots=True)
class _Record:
    """A row that is being put together. `junk`: a text that stands behind the closing quote of cell `junk_at`."""

    delimiter: str
    cells: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    open: bool = False
    junk: str = ""
    junk_at: int = 0

    def feed(self, line: str) -> bool:
        """Take one more line; True where the row ends with it."""
        if not self.open and '"' not in line:
            self.cells += line.rstrip("\r\n").split(self.delimiter)
            return True
        at = 0
        while True:
            if not self.open:
                if line[at : at + 1] != '"':
                    at, ended = self._plain(line, at)
                    if ended:
                        return True
                    continue
                self.open, at = True, at + 1
            match = _QUOTED.match(line, at)
            assert match
            self.parts.append(match[1].replace('""', '"'))
            if not match[2]:
                return False
            at, ended = self._close(line, match.end())
            if ended:
                return True

    def _plain(self, line: str, at: int) -> tuple[int, bool]:
        end = line.find(self.delimiter, at)
        self.cells.append(line[at:end] if end >= 0 else line[at:].rstrip("\r\n"))
        return end + 1, end < 0

    def _close(self, line: str, at: int) -> tuple[int, bool]:
        """The quote is closed before `at`: nothing but a delimiter or the line's end may follow."""
        self.cells.append("".join(self.parts))
        self.parts, self.open = [], False
        end = line.find(self.delimiter, at)
        rest = line[at:end] if end >= 0 else line[at:].rstrip("\r\n")
        if rest and not self.junk:
            self.junk, self.junk_at = rest, len(self.cells) - 1
        return end + 1, end < 0


def table_rows(file: BinaryIO, label: str, longest: int, *, delimiter: str = "") -> Iterator[Row | Bad]:
    """Every row below the header. The delimiter is the one that the header has most of, where none is given.

    Raises:
        DataError: there is no usable header, or nothing below it.
    """
    lines = _Lines(file, longest)
    number, header = lines.next()
    while header is not None and not header.strip() and number:
        number, header = lines.next()
    head = _header(header, number, label, delimiter)
    num_rows = 0
    while True:
        number, line = lines.next()
        if not number:
            break
        if line is None or line.strip(b"\r\n"):
            num_rows += 1
            yield overlong(number, "line", longest) if line is None else _row(number, line, lines, head, longest)
    if not num_rows:
        hint = "each line below the header makes a row"
        raise DataError("this table has a header and no rows", hint=hint, where=Where(label))


@dataclass(frozen=True, slots=True)
class _Header:
    columns: tuple[str, ...]
    delimiter: str


class _Lines:
    """The lines of a file, some of which may be given back."""

    def __init__(self, file: BinaryIO, longest: int) -> None:
        self._lines = lines_of(file, longest)
        self._again: deque[Line] = deque()

    def next(self) -> Line:
        """The next line and its number, which is 0 at the end."""
        if self._again:
            return self._again.popleft()
        return next(self._lines, (0, b""))

    def give_back(self, lines: Sequence[Line]) -> None:
        self._again.extendleft(reversed(lines))


def _header(line: bytes | None, number: int, label: str, delimiter: str) -> _Header:
    where = Where(label, number)
    hint = "the first line must name the columns, each once, such as prompt,completion"
    try:
        text = (line or b"").decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            "the header is not UTF-8", hint="write it as UTF-8 first: iconv -t UTF-8", where=where
        ) from error
    delimiter = delimiter or max(DELIMITERS, key=re.sub(r'"[^"]*"', "", text).count)
    record = _Record(delimiter)
    if not text or not record.feed(text) or record.junk:
        raise DataError(f"this table has no header: saw {seen(text)}", hint=hint, where=where)
    columns = tuple(name or f"column_{index}" for index, name in enumerate(record.cells, start=1))
    twice = next((name for index, name in enumerate(columns) if name in columns[:index]), None)
    if twice is not None:
        raise DataError(f"the header names the column `{shorten(twice)}` twice", hint=hint, where=where)
    return _Header(columns, delimiter)


def _row(number: int, line: bytes, lines: _Lines, head: _Header, longest: int) -> Row | Bad:
    """The row that starts with a line, with as many more lines as its quotes take."""
    record = _Record(head.delimiter)
    more: list[Line] = []
    size = len(line)
    while not record.feed(line.decode("utf-8", "surrogateescape")):
        if record.junk or len(record.cells) > len(head.columns):  # bad already: looking ahead saves nothing
            break
        after = lines.next()
        size += len(after[1]) if after[1] is not None else longest + 1
        if after[0]:
            more.append(after)
        if not after[0] or after[1] is None or size > longest or len(more) > MOST_LINES:
            lines.give_back(more)
            expected = f"its end within {longest:,} bytes and {MOST_LINES:,} lines" if after[0] else "its end"
            return Bad(number, "syntax", "a quote that nothing closes", expected, _last(record, head))
        line = after[1]
    if record.junk or record.open:  # stray: it was closed by the next quote, which may be the business of another row
        lines.give_back(more)
    if record.junk:
        column = head.columns[min(record.junk_at, len(head.columns) - 1)]
        return Bad(number, "syntax", f"`{shorten(record.junk)}` behind a closing quote", "the next cell", column)
    return _read(number, record, head)


def _last(record: _Record, head: _Header) -> str:
    return head.columns[min(len(record.cells), len(head.columns) - 1)]


def _read(number: int, record: _Record, head: _Header) -> Row | Bad:
    if len(record.cells) != len(head.columns):
        expected = f"{len(head.columns)}, as in the header"
        return Bad(number, "syntax", f"{len(record.cells)} cells", expected, _last(record, head))
    made: dict[str, Any] = {}
    for column, cell in zip(head.columns, record.cells, strict=True):
        value = cell_value(column, cell)
        if isinstance(value, strict.Malformed):
            return Bad(number, value.reason, value.seen, value.expected, column)
        made[column] = value
    return Row(number, made)


def cell_value(column: str, cell: str) -> Any | strict.Malformed:
    """A text, or the JSON in it; or why it cannot be read."""
    if not cell.isascii() and (byte := _NO_UTF8.search(cell)):
        return strict.Malformed("encoding", seen=f"the byte 0x{ord(byte[0]) - 0xDC00:02x}", expected="UTF-8")
    start = cell.lstrip()[:1]
    if start not in ("[", "{"):
        return cell
    value = loaded(cell.strip().encode("utf-8"))
    if column in STRUCTURES or _is_talk(value):
        return value
    return cell


def _is_talk(value: Any) -> bool:
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(isinstance(turn, dict) and _is_turn(turn) for turn in turns)


def _is_turn(turn: dict[str, Any]) -> bool:
    return {"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys()
