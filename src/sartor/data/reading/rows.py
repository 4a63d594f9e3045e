"""From a file to its rows, as a stream: JSONL, a JSON array, a table, or text in blocks. Every bad row is one `Bad`.

Nothing is trusted: a line is measured while it is read, so that one of a gigabyte costs no memory; brackets are counted
before anything is parsed. What a file is, its content says first; its suffix only settles what the content leaves open.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sartor.data.reading.array import elements, share_lines
from sartor.data.reading.express import Express
from sartor.data.reading.parquet import parquet_rows
from sartor.data.reading.row import BOM, Bad, Row, lines_of, loaded, overlong, row_of
from sartor.data.reading.table import table_rows
from sartor.data.reading.unpack import MAGIC, unpacked
from sartor.errors import DataError, Where
from sartor.formats import strict
from sartor.formats.fields import seen
from sartor.types import Example, Progress

#: Longest line, array element or block of text, in bytes.
LONGEST = 64 * 2**20
_HEAD = 2**16
_BUFFER = 2**20

Kind = Literal["lines", "array", "blocks", "commas", "tabs"]

_PACKED = {
    b"PK\x03\x04": ("a zip archive", "unpack it first: unzip"),
    b"BZh": ("packed with bzip2", "unpack it first: bunzip2"),
    b"\xfd7zXZ": ("packed with xz", "unpack it first: unxz"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it first: unzstd"),
    b"\xff\xfe": ("in UTF-16", "write it as UTF-8 first: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("in UTF-16", "write it as UTF-8 first: iconv -f UTF-16 -t UTF-8"),
}
_PROSE = frozenset({".txt", ".text", ".md"})
_JSON = frozenset({".jsonl", ".ndjson", ".json"})
_TABLES: dict[str, Kind] = {".csv": "commas", ".tsv": "tabs", ".tab": "tabs"}
_READABLE = _PROSE | _JSON | _TABLES.keys() | {".parquet", ".gz"}
_PARQUET = b"PAR1"
#: An object whose first value, a list or an object, begins on its second line: no line of JSONL begins so.
_DOCUMENT = re.compile(rb'\{[ \t]*\r?\n\s*"[^"\\\n]*"\s*:\s*[\[{]')


def rows(
    path: Path, label: str, *, longest: int = LONGEST, progress: Progress | None = None, express: Express | None = None
) -> Iterator[Row | Bad | Example]:
    """Every row of the file, in its order. `label` is the file's name in messages; `longest` is in bytes; `progress`
    is told the bytes read and the bytes in all; `express` may make lines into examples before they are parsed.

    Raises:
        DataError: the file cannot be opened, is empty or binary, or its JSON array breaks off. The rows before the
            break have been given by then; the error has the line and the column of the break.
    """
    if _starts_with(path, label, _PARQUET):
        yield from parquet_rows(path, label, longest, progress)
        return
    with _opened(path, label, progress) as packed:
        yield from _rows(packed, path, label, longest, express)
        if progress:
            size = path.stat().st_size
            progress(size, size)


class _Watched(io.FileIO):
    """A file that says how far it was read, each time that more of it is asked for."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path)
        self._progress = progress
        self._size = path.stat().st_size

    def readinto(self, buffer: Any) -> int | None:
        taken = super().readinto(buffer)
        self._progress(self.tell(), self._size)
        return taken


def _rows(
    packed: BufferedReader, path: Path, label: str, longest: int, express: Express | None
) -> Iterator[Row | Bad | Example]:
    file = _content(packed, path, label)
    suffix = path.suffix.lower() if file is packed else Path(path.stem).suffix.lower()
    kind = _kind(file.peek(_HEAD)[:_HEAD], suffix, label)
    if kind == "lines":
        yield from _json_lines(file, longest, express)
    elif kind == "blocks":
        yield from _text_blocks(file, longest)
    elif kind == "array":
        with _opened(path, label) as again:
            counted = share_lines(_content(again, path, label), label, longest)
        yield from _json_array(file, label, longest, counted=counted)
    else:
        yield from table_rows(file, label, longest, delimiter="\t" if kind == "tabs" else "")


def _content(packed: BufferedReader, path: Path, label: str) -> BufferedReader:
    """What the file holds: itself, or what it unpacks to."""
    return unpacked(packed, path.stat().st_size, label) if packed.peek(len(MAGIC)).startswith(MAGIC) else packed


def _starts_with(path: Path, label: str, magic: bytes) -> bool:
    with _opened(path, label) as file:
        return file.read(len(magic)) == magic


def _opened(path: Path, label: str, progress: Progress | None = None) -> BufferedReader:
    try:
        if path.is_dir():
            files = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in _READABLE)[:5]
            names = f", such as {', '.join(files)}" if files else ""
            raise DataError(f"{label} is a folder", hint=f"name one file of it{names}")
        if path.exists() and not path.is_file():
            raise DataError(f"{label} is not a regular file", hint="write the rows to a file first")
        return BufferedReader(_Watched(path, progress) if progress else io.FileIO(path), _BUFFER)
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
    if _DOCUMENT.match(start):
        raise DataError(
            "this file is one JSON object over many lines, not an object on each line",
            hint="take the rows out of it: `jq -c '.train[]' FILE` for the list `train` of objects in it, "
            "`jq -c '.train[] | {prompt: .[0], completion: .[1]}' FILE` for pairs, `jq -c . FILE` for a single row",
            where=where,
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
    if suffix in _TABLES:
        return _TABLES[suffix]
    if re.search(rb"^\s*\{", head, re.MULTILINE):
        return "lines"
    raise DataError(
        f"cannot tell what this file is: it starts with {seen(start[:40].decode('utf-8', 'replace'))}",
        hint="give JSONL (one JSON object per line), a JSON array, .csv, .tsv, .parquet, or text in a .txt file",
        where=where,
    )


def _breaks_off(line: bytes) -> bool:
    """Does the JSON of this line go on in the next one? Too deep a line is not parsed: then its comma tells."""
    value = loaded(line)
    if isinstance(value, strict.Malformed):
        return value.reason == "syntax" or line.rstrip().endswith(b",")
    return False


def _json_lines(file: BinaryIO, longest: int, express: Express | None) -> Iterator[Row | Bad | Example]:
    for number, line in lines_of(file, longest):
        if line is None:
            yield overlong(number, "line", longest)
        elif not line.isspace() and line:
            example = express.take(line, number) if express else None
            yield example or row_of(loaded(line.rstrip(b"\r\n")), number)


def _json_array(file: BinaryIO, label: str, longest: int, *, counted: bool) -> Iterator[Row | Bad]:
    number = 0
    for number, (line, value) in enumerate(elements(file, label, longest), start=1):
        yield row_of(value, line, number, counted=counted)
    if not number:
        raise DataError("this JSON array is empty", hint="each row is an element of it", where=Where(label))


def _text_blocks(file: BinaryIO, longest: int) -> Iterator[Row | Bad]:
    """Blocks of text between blank lines. Line ends are the file's business: inside a block they become "\\n"."""
    held: list[str] = []
    start, size = 0, 0
    bad: Bad | None = None
    for number, line in lines_of(file, longest):
        if line is not None and not line.strip():
            if start:
                yield bad or Row(start, {"text": "\n".join(held)})
            held, start, size, bad = [], 0, 0, None
            continue
        start = start or number
        size += len(line) if line is not None else longest + 1
        if size > longest:
            bad, held = bad or overlong(start, "block of text", longest), []
        elif line is not None and not bad:
            try:
                held.append(line.decode("utf-8").removesuffix("\n").removesuffix("\r"))
            except UnicodeDecodeError as error:
                found = f"the byte 0x{line[error.start]:02x} at byte {error.start + 1}"
                bad = Bad(number, "encoding", found, "UTF-8")
    if start:
        yield bad or Row(start, {"text": "\n".join(held)})
