"""Two versions of a data set: what was removed, changed and added, each with the reason that the ledger gives.

Rows are the same row if they came from the same place; where two files of one name have such rows, they pair in their
order. Nothing that a cleaner removed is lost: `restored` puts rows back as they were before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from sartor.data.clean.texts import texts_of
from sartor.data.folder import DataFolder, card, making, told
from sartor.errors import DataError
from sartor.types import Example, Json, LedgerEntry

RESTORED = "restored"
UNTOLD = "not in the ledger"


@dataclass(frozen=True, slots=True)
class Edit:
    """One text before and after; empty where there was none."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not the same in both. `entries` are what the ledger says of it."""

    what: Literal["removed", "changed", "added"]
    id: str
    example: Example
    edits: tuple[Edit, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.reason for entry in self.entries)) or (UNTOLD,)

    def document(self) -> Json:
        """For other programs."""
        edits = [asdict(edit) for edit in self.edits]
        return {"what": self.what, "row": self.id, "reasons": list(self.reasons), "edits": edits}


@dataclass(slots=True)
class Tally:
    """How many rows there were before and after, and how many differ, by what and why."""

    before: int = 0
    after: int = 0
    differences: Counter[tuple[str, str]] = field(default_factory=Counter)

    def document(self) -> Json:
        """For other programs."""
        counts = {f"{what}: {reason}": count for (what, reason), count in self.differences.most_common()}
        return {"before": self.before, "after": self.after, "counts": counts}


def differences(
    before: Iterable[Example], after: Iterable[Example], ledger: Iterable[LedgerEntry], tally: Tally
) -> Iterator[Difference]:
    """Every row that differs: first those of `before` in their order, then what is new. `tally` counts on the way.

    `after` is held in memory, `before` passes by.
    """
    later = dict(_named(after))
    told = _by_place(ledger)
    tally.after = len(later)
    for name, example in _named(before):
        tally.before += 1
        now = later.pop(name, None)
        if now == example:
            continue
        entries = told.get(example.id, ())
        found = (
            Difference("removed", example.id, example, entries=entries)
            if now is None
            else Difference("changed", example.id, now, _edits(example, now), entries)
        )
        yield _counted(found, tally)
    for example in later.values():
        yield _counted(Difference("added", example.id, example, entries=told.get(example.id, ())), tally)


def restored(
    before: Iterable[Example], after: Iterable[Example], ids: Collection[str]
) -> Iterator[tuple[Example, LedgerEntry | None]]:
    """`after` with some rows as they were before, in the order of `before`; what was new comes last.

    A row that is put back comes with its entry. All rows of one name are put back together.

    Raises:
        DataError: `before` has no such row; known only at the end.
    """
    later, wanted, missing = dict(_named(after)), set(ids), set(ids)
    for name, example in _named(before):
        now = later.pop(name, None)
        if example.id in wanted:
            missing.discard(example.id)
            yield example, _put_back(example)
        elif now is not None:
            yield now, None
    if missing:
        raise DataError(f"there was no row {min(missing)!r} before", hint="`sartor data diff` lists the rows by name")
    for example in later.values():
        yield example, None


def _put_back(example: Example) -> LedgerEntry:
    source = example.source
    return LedgerEntry(
        action="changed", file=source.file, line=source.line, reason=RESTORED, detail="put back as it was before"
    )


def restore(before: Iterable[Example], after: DataFolder, ids: Collection[str], to: Path) -> DataFolder:
    """A new data folder: `after` with rows put back. What its ledger said of them is said no more.

    Raises:
        DataError: `before` has no such row.
    """
    with making(to) as folder:
        folder.tell(*(entry for entry in after.ledger() if f"{entry.file}:{entry.line}" not in set(ids)))
        for example, entry in restored(before, after.examples(), ids):
            folder.keep(example)
            folder.tell(*(entry,) if entry else ())
        facts = [("from", after.path.name), ("put back", f"{len(set(ids)):,} rows"), ("rows", f"{folder.num_kept:,}")]
        folder.finish(card(f"{after.path.name}, restored", facts, told(folder.counts)))
    return DataFolder(to)


def _named(examples: Iterable[Example]) -> Iterator[tuple[tuple[str, int], Example]]:
    """Each example under its id, and the number of those with the same id before it."""
    given: Counter[str] = Counter()
    for example in examples:
        yield (example.id, given[example.id]), example
        given[example.id] += 1


def _by_place(ledger: Iterable[LedgerEntry]) -> Mapping[str, tuple[LedgerEntry, ...]]:
    told: dict[str, tuple[LedgerEntry, ...]] = {}
    for entry in ledger:
        place = f"{entry.file}:{entry.line}"
        told[place] = (*told.get(place, ()), entry)
    return told


def _edits(before: Example, after: Example) -> tuple[Edit, ...]:
    """The texts that are other now."""
    old = {found.field: found.text for found in texts_of(before)}
    new = {found.field: found.text for found in texts_of(after)}
    names = dict.fromkeys((*old, *new))
    return tuple(Edit(name, old.get(name, ""), new.get(name, "")) for name in names if old.get(name) != new.get(name))


def _counted(found: Difference, tally: Tally) -> Difference:
    for reason in found.reasons:
        tally.differences[found.what, reason] += 1
    return found
