"""From a file to its rows, as a stream: JSONL, a JSON array, or text in blocks. Every bad row is one `Bad`.

Nothing is trusted: a line is measured while it is read, so that one of a gigabyte costs no memory; brackets are counted
before anything is parsed. What a file is, its content says first; its suffix only settles what the content leaves open.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sartor.data.array import BOM, elements
from sartor.errors import DataError, Where
from sartor.formats import strict
from sartor.formats.fields import seen

#: Longest line, array element or block of text, in bytes.
LONGEST = 64 * 2**20
_CHUNK = 2**20
_HEAD = 2**16
#: Rows between two reports of progress.
_REPORT_EVERY = 1000

Progress = Callable[[int, int], None]
Kind = Literal["lines", "array", "blocks"]

_PACKED = {
    b"\x1f\x8b": ("packed with gzip", "unpack it first: gunzip"),
    b"PK\x03\x04": ("a zip archive", "unpack it first: unzip"),
    b"BZh": ("packed with bzip2", "unpack it first: bunzip2"),
    b"\xfd7zXZ": ("packed with xz", "unpack it first: unxz"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it first: unzstd"),
    b"PAR1": ("a Parquet file", "write it as JSONL first"),
    b"\xff\xfe": ("in UTF-16", "write it as UTF-8 first: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("in UTF-16", "write it as UTF-8 first: iconv -f UTF-16 -t UTF-8"),
}
_PROSE = frozenset({".txt", ".text", ".md"})
_JSON = frozenset({".jsonl", ".ndjson", ".json"})


@dataclass(frozen=True, slots=True)
class Row:
    """One readable row: `line` is where it starts, `element` its 1-based number in an array (0 elsewhere)."""

    line: int
    value: dict[str, Any]
    element: int = 0


@dataclass(frozen=True, slots=True)
class Bad:
    """One row that cannot be read, with a reason out of `ledger.UNREADABLE`."""

    line: int
    reason: str
    seen: str
    expected: str
    field: str = ""
    element: int = 0


def rows(path: Path, label: str, *, longest: int = LONGEST, progress: Progress | None = None) -> Iterator[Row | Bad]:
    """Every row of the file, in its order. `label` is the file's name in messages; `longest` is in bytes; `progress`
    is told the bytes read and the bytes in all.

    Raises:
        DataError: the file cannot be opened, is empty or binary, or its JSON array breaks off. The rows before the
            break have been given by then; the error has the line and the column of the break.
    """
    with _opened(path, label) as file:
        size = path.stat().st_size
        kind = _kind(file.read(_HEAD), path.suffix.lower(), label)
        file.seek(0)
        read = {"lines": _json_lines, "array": _json_array, "blocks": _text_blocks}[kind]
        for number, row in enumerate(read(file, label, longest)):
            if progress and number % _REPORT_EVERY == 0:
                progress(file.tell(), size)
            yield row
        if progress:
            progress(size, size)


def _opened(path: Path, label: str) -> BinaryIO:
    try:
        if path.is_dir():
            files = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in _JSON | _PROSE)[:5]
            names = f", such as {', '.join(files)}" if files else ""
            raise DataError(f"{label} is a folder", hint=f"name one file of it{names}")
        if path.exists() and not path.is_file():
            raise DataError(f"{label} is not a regular file", hint="write the rows to a file first")
        return path.open("rb")
    except FileNotFoundError as error:
        beside = tuple(sorted(entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else ()
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"did you mean {near[0]}?" if near else "paths are relative to the recipe's folder"
        raise DataError(f"there is no file {label}", hint=hint) from error
    except OSError as error:
        hint = "check that you may read it"
        raise DataError(f"cannot open the file: {error.strerror}", hint=hint, where=Where(label)) from error


def _kind(head: bytes, suffix: str, label: str) -> Kind:
    where = Where(label)
    for magic, (what, way_out) in _PACKED.items():
        if head.startswith(magic):
            raise DataError(f"this file is {what}", hint=f"{way_out} {label}", where=where)
    start = head.removeprefix(BOM).lstrip()
    if not start:
        raise DataError("this file is empty", hint="one JSON object per line makes a row", where=where)
    if b"\0" in head and not re.search(rb"^\s*[\[{]", head, re.MULTILINE):
        raise DataError(
            "this file is binary: it has NUL bytes", hint="give JSONL, a JSON array, or UTF-8 text", where=where
        )
    # Prose may start with a bracket, [like this]: in a text file only the start of an object decides.
    looks_like_json = re.match(rb'\[\s*[{\]]|\{\s*["}]' if suffix in _PROSE else rb"[\[{]", start)
    if looks_like_json and start.startswith(b"["):
        first, _, rest = start.partition(b"\n")
        # A row [like, this] followed by more rows is JSONL with a bad first row, not an array.
        return "lines" if rest.strip() and not _breaks_off(first) else "array"
    if looks_like_json or suffix in _JSON:
        return "lines"
    if suffix in _PROSE:
        return "blocks"
    if re.search(rb"^\s*\{", head, re.MULTILINE):
        return "lines"
    raise DataError(
        f"cannot tell what this file is: it starts with {seen(start[:40].decode('utf-8', 'replace'))}",
        hint="give JSONL (one JSON object per line), a JSON array, or text in a .txt file",
        where=where,
    )


def _breaks_off(line: bytes) -> bool:
    """Does the JSON of this line go on in the next one? Too deep a line is not parsed: then its comma tells."""
    value = _loaded(line)
    if isinstance(value, strict.Malformed):
        return value.reason == "syntax" or line.rstrip().endswith(b",")
    return False


def _lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes | None]]:
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


def _json_lines(file: BinaryIO, label: str, longest: int) -> Iterator[Row | Bad]:
    for number, line in _lines(file, longest):
        if line is None:
            yield _overlong(number, "line", longest)
        elif line.strip():
            yield _row(_loaded(line.rstrip(b"\r\n")), number)


def _json_array(file: BinaryIO, label: str, longest: int) -> Iterator[Row | Bad]:
    number = 0
    for number, (line, value) in enumerate(elements(file, label, longest), start=1):
        yield _row(value, line, number)
    if not number:
        raise DataError("this JSON array is empty", hint="each row is an element of it", where=Where(label))


def _loaded(raw: bytes) -> Any | strict.Malformed:
    try:
        return strict.loads(raw)
    except strict.Malformed as error:
        return error


def _row(value: Any | strict.Malformed, line: int, element: int = 0) -> Row | Bad:
    if isinstance(value, strict.Malformed):
        return Bad(line, value.reason, value.seen, value.expected, value.field, element)
    if not isinstance(value, dict):
        return Bad(line, "not_an_object", seen(value), "a JSON object", element=element)
    return Row(line, value, element)


def _text_blocks(file: BinaryIO, label: str, longest: int) -> Iterator[Row | Bad]:
    """Blocks of text between blank lines. Line ends are the file's business: inside a block they become "\\n"."""
    held: list[str] = []
    start, size = 0, 0
    bad: Bad | None = None
    for number, line in _lines(file, longest):
        if line is not None and not line.strip():
            if start:
                yield bad or Row(start, {"text": "\n".join(held)})
            held, start, size, bad = [], 0, 0, None
            continue
        start = start or number
        size += len(line) if line is not None else longest + 1
        if size > longest:
            bad, held = bad or _overlong(start, "block of text", longest), []
        elif line is not None and not bad:
            try:
                held.append(line.decode("utf-8").removesuffix("\n").removesuffix("\r"))
            except UnicodeDecodeError as error:
                found = f"the byte 0x{line[error.start]:02x} at byte {error.start + 1}"
                bad = Bad(number, "encoding", found, "UTF-8")
    if start:
        yield bad or Row(start, {"text": "\n".join(held)})


def _overlong(line: int, what: str, longest: int) -> Bad:
    return Bad(line, "too_long", f"a {what} of over {longest:,} bytes", f"at most {longest:,} bytes")
