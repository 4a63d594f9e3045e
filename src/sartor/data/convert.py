"""From one format to another: a file or data folder becomes a folder with rows, a ledger and a manifest.

    report = convert(Path("talks.json"), Path("talks-openai"), to="chat", label="talks.json")

Each row is written, or the ledger says why it cannot be: `cannot_hold`. What a format leaves out of a row that it does
hold is an entry `changed`: what it was made of too, of which only our own examples keep the id.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor import durable, formats, names
from sartor.data.clean import entry_of
from sartor.data.folder import LEDGER
from sartor.data.read import stream
from sartor.errors import FieldError, RecipeError
from sartor.formats.fields import shorten
from sartor.types import Example, Json, LedgerEntry, Progress

ROWS = "rows.jsonl"
#: Names that people use for formats that are called otherwise here.
ALIASES = {"openai": "chat", "trl": "preference", "dpo": "preference", "kto": "unpaired"}


@dataclass(frozen=True, slots=True)
class Converted:
    """One row in the new format, None where that cannot hold it; `entries` say what is lost."""

    row: Json | None
    entries: tuple[LedgerEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of a file: `counts` of the ledger's entries by action and reason."""

    source_format: str
    rows_in: int
    rows_out: int
    counts: Counter[tuple[str, str]]


def convert(
    path: Path,
    target: Path,
    *,
    to: str,
    label: str,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write the rows of a file in another format into the folder `target`, which appears whole or not at all.

    Args:
        path: anything that `data.read` reads.
        to: a name of `formats/` that can be written, or what else people call it, such as `openai`.
        label, format, fields, progress: as for `data.read.stream`.

    Raises:
        DataError: the file cannot be read.
        RecipeError: a name is not known, or that format is not written.
    """
    form = _writer(to)
    found = stream(path, format=format, fields=fields or {}, label=label, progress=progress)
    counts: Counter[tuple[str, str]] = Counter()
    num_out = 0
    with (
        durable.atomic_dir(target) as staging,
        durable.opened(staging / ROWS) as rows,
        durable.opened(staging / LEDGER) as ledger,
    ):
        for outcome in found:
            done = Converted(None) if outcome.example is None else converted(outcome.example, form)
            if done.row is not None:
                rows.write(json.dumps(done.row, ensure_ascii=False) + "\n")
                num_out += 1
            for entry in (*outcome.entries, *done.entries):
                ledger.write(entry.model_dump_json() + "\n")
                counts[entry.action, entry.reason] += 1
    return Conversion(found.format, found.rows, num_out, counts)


def all_converted(examples: Iterable[Example], to: str) -> Iterator[Converted]:
    """Examples one by one in another format. Raises as `convert` for its name."""
    form = _writer(to)
    return (converted(example, form) for example in examples)


def _writer(to: str) -> formats.Writer:
    """The format of that name, or of that other name.

    Raises:
        RecipeError: it is not known, or not written; the hint names those that are.
    """
    name = ALIASES.get(to, to)
    if name not in names.known("formats"):
        raise RecipeError(f"unknown format {to!r}", hint=names.suggest(to, writable()))
    return formats.writer(name)


def writable() -> tuple[str, ...]:
    """What a file can be written in, under all of its names."""
    written = (name for name in names.known("formats") if formats.named(name).WRITES)
    return tuple(sorted((*written, *ALIASES)))


def converted(example: Example, form: formats.Writer) -> Converted:
    """One example in another format."""
    try:
        row, changes = form.write(example)
    except FieldError as error:
        detail = f"saw {error.seen}, expected {error.expected}"
        return Converted(None, (entry_of(example, "dropped", "cannot_hold", detail, error.field),))
    told = [entry_of(example, "changed", change.reason, change.detail, change.field) for change in changes]
    if example.source.origin and "source" not in row:
        made = f"that it was made of {shorten(example.source.origin)}"
        told.append(entry_of(example, "changed", "origin_left_out", made, "source.origin"))
    return Converted(row, tuple(told))
