"""A prepared data set as a folder: `examples.jsonl` (or `documents.jsonl`), `ledger.jsonl`, `card.md`, `manifest.json`.

with making(path) as folder:
    for example in …:
        folder.keep(example)
    folder.finish(card(…))

Rows are streamed into it, and it appears whole or not at all. Every command of `sartor data` reads and writes these,
and `data.train` takes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sartor import durable
from sartor.errors import DataError, SartorError, UserError
from sartor.types import EXAMPLE, Document, Example, Json, LedgerEntry

EXAMPLES, DOCUMENTS, LEDGER, CARD = "examples.jsonl", "documents.jsonl", "ledger.jsonl", "card.md"


@dataclass(slots=True)
class Making:
    """A data folder that is being written."""

    staging: Path
    num_kept: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    files: dict[str, IO[str]] = field(default_factory=dict)

    def keep(self, *members: Example | Document) -> None:
        """Examples or documents that the data set has, in their order; not of both kinds."""
        for member in members:
            name = DOCUMENTS if isinstance(member, Document) else EXAMPLES
            self._file(name).write(member.model_dump_json() + "\n")
            self.num_kept += 1

    def tell(self, *entries: LedgerEntry) -> None:
        """What became of others."""
        for entry in entries:
            self._file(LEDGER).write(entry.model_dump_json() + "\n")
            self.counts[entry.action, entry.reason] += 1

    @property
    def num_dropped(self) -> int:
        return sum(count for (action, _), count in self.counts.items() if action == "dropped")

    def balance(self, rows_in: int) -> None:
        """Say how many rows came in.

        Raises:
            SartorError: some of them are neither kept nor dropped, which is a fault of ours.
        """
        if rows_in != self.num_kept + self.num_dropped:
            raise SartorError(
                f"{rows_in} rows came in, {self.num_kept} were kept and {self.num_dropped} dropped: rows are lost",
                hint="this is a fault of sartor: please report it, with the file if you can",
            )

    def finish(self, card: str) -> None:
        """The card, and the end of all files."""
        for name in (LEDGER,) if DOCUMENTS in self.files else (EXAMPLES, LEDGER):
            self._file(name)
        for file in self.files.values():
            file.close()
        durable.atomic_write(self.staging / CARD, card)

    def _file(self, name: str) -> IO[str]:
        if name not in self.files:
            self.files[name] = durable.opened(self.staging / name)
        return self.files[name]


@contextmanager
def making(path: Path) -> Iterator[Making]:
    """A new data folder, replacing one of that name. What a killed process left of it before is gone.

    Raises:
        UserError: something else stands there.
    """
    require_ours(path)
    durable.clear_killed(path)
    with durable.atomic_dir(path) as staging:
        made = Making(staging)
        try:
            yield made
        finally:
            for file in made.files.values():
                file.close()


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A finished one. Examples are read again each time that they are gone through: any number fits."""

    path: Path

    def examples(self) -> Iterator[Example]:
        """In their order, as they were written."""
        return map(EXAMPLE.validate_json, self._lines(EXAMPLES))

    def documents(self) -> Iterator[Document]:
        return map(Document.model_validate_json, self._lines(DOCUMENTS))

    def ledger(self) -> Iterator[LedgerEntry]:
        return map(LedgerEntry.model_validate_json, self._lines(LEDGER))

    @property
    def holds_documents(self) -> bool:
        return (self.path / DOCUMENTS).is_file()

    @property
    def num_members(self) -> int:
        """How many examples or documents it holds, without reading what they say."""
        return sum(1 for _ in self._lines(DOCUMENTS if self.holds_documents else EXAMPLES))

    @property
    def is_empty(self) -> bool:
        return not self.holds_documents and not (self.path / EXAMPLES).stat().st_size

    @property
    def digest(self) -> str:
        """Of what it holds: the same for two runs on the same rows."""
        return durable.sha256(self.path / (DOCUMENTS if self.holds_documents else EXAMPLES))

    def _lines(self, name: str) -> Iterator[bytes]:
        path = self.path / name
        if not path.is_file():
            return
        with path.open("rb") as file:
            yield from file


def label_of(source: Path, root: Path = Path()) -> str:
    """What messages and ids call a file or folder: its path from `root` where it lies below, or else its own name."""
    return source.relative_to(root).as_posix() if source.is_relative_to(root) else source.name


def require_ours(path: Path) -> None:
    """What is replaced is a data folder, whole or damaged, or nothing: never what a user put there.

    Raises:
        UserError: it is somebody else's, or no name at all.
    """
    ours = path.is_dir() and any((path / name).is_file() for name in (EXAMPLES, DOCUMENTS, LEDGER))
    empty = path.is_dir() and not any(path.iterdir())
    if not path.name or (path.exists() and not (ours or empty)):
        raise UserError(f"{path} is there, and is no data folder", hint="name another: it would be replaced")


def is_data_folder(path: Path) -> bool:
    return any((path / name).is_file() for name in (EXAMPLES, DOCUMENTS)) and (path / LEDGER).is_file()


def open_folder(path: Path, label: str) -> DataFolder:
    """A finished data folder.

    Raises:
        DataError: it is none, or it is damaged.
    """
    if not is_data_folder(path):
        raise DataError(f"{label} is no data folder", hint="`sartor data collect`, `clean` and others write them")
    if problem := durable.verify(path):
        raise DataError(f"the data folder {label} is damaged: {problem}", hint="make it again")
    return DataFolder(path)


def card(title: str, facts: Iterable[tuple[str, str]], counts: Json, notes: Iterable[str] = ()) -> str:
    """What a data card says: what it is and where it came from, what became of the rows, and what to know of it."""
    lines = [f"# {title}", "", *(f"- {name}: {value}" for name, value in facts)]
    if counts:
        lines += ["", "| what | rows |", "|---|---|", *(f"| {name} | {count:,} |" for name, count in counts.items())]
    lines += [part for note in notes for part in ("", note)]
    return "\n".join(lines) + "\n"


def told(counts: Counter[tuple[str, str]]) -> dict[str, int]:
    """Counts of entries for a card, the most frequent first."""
    return {f"{action}: {reason}": count for (action, reason), count in counts.most_common()}
