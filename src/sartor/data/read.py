"""Read a data file: rows → examples, and an entry for every row that is dropped or changed. Reading never stops early.

read = data.read.read(path, format=None, fields={"prompt": "question"}, label="tickets.jsonl")
ledger.refuse_if_many(read.ledger)

for outcome in stream(path, …):     # the same in constant memory, one row at a time
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor import formats
from sartor.data import ledger
from sartor.data.clean import Outcome
from sartor.data.folder import EXAMPLES, is_data_folder, open_folder
from sartor.data.reading.express import express_for
from sartor.data.reading.row import Bad, Row
from sartor.data.reading.rows import LONGEST, rows
from sartor.errors import DataError, FieldError, RecipeError, Where
from sartor.formats.fields import seen
from sartor.names import suggest
from sartor.types import Example, Json, LedgerEntry, Progress, Source

#: Readable rows that vote on the format.
_SNIFFED = 1000
#: Rows of which at least one must be readable: more than these are not looked at for a vote.
_HEAD = 20_000
#: Columns that often belong to what is asked: a format that does not read them says so.
_OFTEN_ASKED = frozenset({"context", "passage", "document", "input", "history", "system", "system_prompt"})
#: What is read beside an instruction alone.
_OF_INSTRUCTIONS = frozenset({"input", "history"})
#: How a data folder keeps its examples.
_PREPARED = "example"


@dataclass(frozen=True, slots=True)
class Read:
    """What a file gave: `rows` came in, `examples` are kept, `entries` tell of the others and of what was changed."""

    examples: tuple[Example, ...]
    entries: tuple[LedgerEntry, ...]
    format: str
    rows: int

    @property
    def ledger(self) -> ledger.Ledger:
        return ledger.Ledger(rows_in=self.rows, kept=len(self.examples), entries=self.entries)


class Stream:
    """The rows of a file, to be gone through once: an `Outcome` for each. `rows` counts those that were given so far;
    `format` is known from the start.
    """

    def __init__(self, reader: _Reader, found: Iterable[Row | Bad | Example]) -> None:
        self.format = reader.name
        self.rows = 0
        self._reader = reader
        self._found = found

    def __iter__(self) -> Iterator[Outcome]:
        take = self._reader.take
        for row in self._found:
            self.rows += 1
            yield take(row) if isinstance(row, tuple) else Outcome(row)


def read(
    path: Path,
    *,
    format: str | None,
    fields: Mapping[str, str],
    label: str,
    progress: Progress | None = None,
    longest: int = LONGEST,
) -> Read:
    """Read every row of a file into memory. Arguments and errors are those of `stream`."""
    found = stream(path, format=format, fields=fields, label=label, progress=progress, longest=longest)
    examples: list[Example] = []
    entries: list[LedgerEntry] = []
    for outcome in found:
        if outcome.example is not None:
            examples.append(outcome.example)
        entries.extend(outcome.entries)
    return Read(tuple(examples), tuple(entries), found.format, found.rows)


def stream(
    path: Path,
    *,
    format: str | None,
    fields: Mapping[str, str],
    label: str,
    progress: Progress | None = None,
    longest: int = LONGEST,
) -> Stream:
    """Read a file row by row: no more than one of them is held. Its first rows are read twice where they vote.

    Args:
        path: the file: JSONL, a JSON array, CSV, TSV, Parquet or text, perhaps packed with gzip; or a data folder.
        format: a name of `formats/`; None sniffs it from the first 1,000 readable rows.
        fields: our field name -> the user's column, which may be a dotted path such as `data.question`.
        label: the file's name as the user wrote it: it stands in every source, entry and error.
        progress: told the bytes read and the bytes in all (of Parquet: the rows).
        longest: the longest line, array element, cell or block of text, in bytes.

    Raises (here or while it is gone through):
        DataError: there is no such file, it is empty or binary, its JSON array breaks off, or no format fits it.
        RecipeError: `format` or a name in `fields` is not known.
    """
    if is_data_folder(path):
        path, format = _examples_of(path, label), format or _PREPARED
    candidates = (format,) if format else formats.reading(fields)
    if len(candidates) > 1:
        head = (_mapped(row, fields) for row in rows(path, label, longest=longest))
        candidates = (_sniffed(head, candidates, label),)
    name = candidates[0]
    form = formats.named(name)
    unread = set((_OFTEN_ASKED - set(form.FIELDS)) | _OF_INSTRUCTIONS)
    reader = _Reader(name, form, fields, label, chosen=bool(format or fields), unread=unread)
    _check_fields(reader)
    express = None if fields else express_for(name, label)
    found = rows(path, label, longest=longest, progress=progress, express=express)
    return Stream(reader, (_mapped(row, fields) for row in found) if fields else found)


def _examples_of(path: Path, label: str) -> Path:
    folder = open_folder(path, label)
    if folder.holds_documents:
        hint = "build examples from it first: sartor data build"
        raise DataError(f"the data folder {label} holds documents, not examples", hint=hint)
    return path / EXAMPLES


@dataclass(frozen=True, slots=True)
class _Reader:
    """One row at a time, for one file. `chosen`: the user named the format or the fields, nothing was guessed.

    `unread`: columns that the format does not read, of which a text has still to be told, once for the file.
    """

    name: str
    form: formats.Format
    fields: Mapping[str, str]
    label: str
    chosen: bool
    unread: set[str]

    def take(self, row: Row | Bad) -> Outcome:
        """The example of a row, if it gives one, and what the ledger has to say of it."""
        if isinstance(row, Bad):
            return Outcome(None, (_entry(row, self.label),))
        try:
            parsed = self.form.parse(row.value, Source(file=self.label, line=row.place))
        except FieldError as error:
            if not set(self.form.FIELDS) & row.value.keys():
                return Outcome(None, (self._stranger(row),))
            field = _users_name(error.field, self.fields)
            return Outcome(None, (_entry(_bad(row, "field", error.seen, error.expected, field), self.label),))
        if not self.chosen and not self.form.matches(row.value):
            return Outcome(None, (self._stranger(row),))
        if not parsed.changes and self.unread.isdisjoint(row.value):
            return Outcome(parsed.example)
        changed = (self._changed(row, change) for change in parsed.changes)
        return Outcome(parsed.example, (*changed, *self._unread(row)))

    def _changed(self, row: Row, change: formats.Change) -> LedgerEntry:
        return LedgerEntry(
            action="changed",
            file=self.label,
            line=row.place,
            field=_users_name(change.field, self.fields),
            reason=change.reason,
            detail=_detail(change.detail, row.element),
        )

    def _unread(self, row: Row) -> Iterator[LedgerEntry]:
        for column in sorted(self.unread & row.value.keys()):
            held = row.value[column]
            read = column in _OF_INSTRUCTIONS and "instruction" in row.value
            if read or not held or not isinstance(held, str | list):
                continue
            self.unread.discard(column)
            yield LedgerEntry(
                action="flagged",
                file=self.label,
                line=row.place,
                field=column,
                reason="unread_column",
                detail=_detail(f"the format {self.name} does not read it, here or in later rows", row.element),
            )

    def _stranger(self, row: Row) -> LedgerEntry:
        expected = f"a row of the format {self.name}, which reads {', '.join(self.form.FIELDS)}"
        return _entry(_bad(row, "unknown_format", seen(row.value), expected), self.label)


def _sniffed(head: Iterator[Row | Bad | Example], among: tuple[str, ...], label: str) -> str:
    """The format that 1,000 readable rows at the front of a file vote for. Only their outlines are held."""
    voters: list[Json] = []
    bad: list[Bad] = []
    for row in itertools.islice(head, _HEAD):
        if isinstance(row, Bad):
            bad.append(row)
        elif isinstance(row, Row):
            voters.append(_outline(row.value))
        if len(voters) == _SNIFFED:
            break
    if not voters:
        unmapped = next((row for row in bad if row.reason == "field"), None)
        hint = "each line must be one whole JSON object, as `jq -c . FILE` writes it; or give a JSON array"
        if unmapped:
            hint = f"correct `data.fields` (`--fields`): such a row has {unmapped.seen}"
        listed = ledger.listed([_entry(row, label) for row in bad])
        raise DataError(f"none of {len(bad):,} rows can be read\n{listed}", hint=hint, where=Where(label))
    return formats.sniff(voters, among=among, where=Where(label))


def _outline(value: Json) -> Json:
    """A row without what is in its texts and lists: formats are told apart by keys."""
    return {key: type(part)() if isinstance(part, str | list | dict) else part for key, part in value.items()}


def _check_fields(reader: _Reader) -> None:
    for field in reader.fields:
        if field not in reader.form.FIELDS:
            raise RecipeError(
                f"data.fields: the format {reader.name} has no field {field!r}",
                hint=suggest(field, reader.form.FIELDS),
            )


def _mapped(row: Row | Bad | Example, fields: Mapping[str, str]) -> Row | Bad | Example:
    """The row under our field names: the mapped columns take them, all other columns keep theirs."""
    if not isinstance(row, Row):
        return row
    found: Json = {}
    for ours, column in fields.items():
        holder, key = _column(row.value, column)
        if key not in holder:
            return _bad(row, "field", seen(holder), f"the column `{column}`, our `{ours}`", column)
        found[ours] = holder[key]
    moved = set(fields.values())
    value = {key: value for key, value in row.value.items() if key not in moved} | found
    return Row(row.line, value, row.element, row.counted)


def _column(value: Json, column: str) -> tuple[Json, str]:
    """The object that should hold a column, and its key there. A key that itself has a dot comes first."""
    while column not in value and "." in column:
        first, _, rest = column.partition(".")
        inner = value.get(first)
        if not isinstance(inner, dict):
            break
        value, column = inner, rest
    return value, column


def _users_name(field: str, fields: Mapping[str, str]) -> str:
    """A path in our names under the user's: with {messages: turns}, `messages[2].content` is `turns[2].content`."""
    for ours, column in fields.items():
        if field == ours or field.startswith((f"{ours}.", f"{ours}[")):
            return column + field[len(ours) :]
    return field


def _bad(row: Row, reason: str, seen: str, expected: str, field: str = "") -> Bad:
    return Bad(row.line, reason, seen, expected, field, row.element, row.counted)


def _entry(bad: Bad, label: str) -> LedgerEntry:
    return LedgerEntry(
        action="dropped",
        file=label,
        line=bad.place,
        field=bad.field,
        reason=bad.reason,
        detail=_detail(f"saw {bad.seen}, expected {bad.expected}", bad.element),
    )


def _detail(text: str, element: int) -> str:
    return f"element {element}: {text}" if element else text
