"""Cleaners one after the other, over any number of rows: what goes on is a stream, what does not is told.

for example in cleaned(rows, chosen, context, ledger.append):
    …
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sartor import durable
from sartor.data.clean import Cleaner, Context, Filed, cleaner
from sartor.errors import RecipeError, SartorError
from sartor.recipe import Named, validated
from sartor.types import EXAMPLE, Example, LedgerEntry

#: Examples of this many bytes wait in memory for a cleaner that has to see all of them first; more go to the disk.
MOST_HELD = 256 * 2**20
CODE = "utf-8"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A cleaner with its settings."""

    name: str
    cleaner: Cleaner
    config: Any

    @property
    def selects(self) -> bool:
        return self.cleaner.SELECTS


def chosen(asked: Sequence[Named], path: str = "data.clean") -> tuple[Chosen, ...]:
    """The cleaners that a recipe names, in its order.

    Raises:
        RecipeError: one is not known, stands there twice, or has a setting that it does not take.
    """
    twice = next((name for name in (one.name for one in asked) if [one.name for one in asked].count(name) > 1), "")
    if twice:
        raise RecipeError(f"`{path}` names {twice!r} twice", hint="name it once, with all of its settings")
    found = [(one, cleaner(one.name)) for one in asked]
    return tuple(
        Chosen(one.name, each, validated(each.Config, one.settings, f"{path}.{one.name}")) for one, each in found
    )


def decided_by(steps: Sequence[Chosen], root: Path) -> list[str]:
    """Digests of the files and data folders that settings of cleaners name: what stands in them decides as well."""
    files = [name for step in steps if isinstance(step.config, Filed) for name in step.config.files]
    return [durable.digest(root / name) for name in files]


def cleaned(
    rows: Iterable[Example], steps: Sequence[Chosen], context: Context, tell: Callable[[LedgerEntry], None]
) -> Iterator[Example]:
    """What is left of the rows after all steps, in their order.

    Rows are held only for a step that has to see all of them first. `tell` hears of each row that is dropped, changed
    or flagged, while its outcome passes by.

    Raises:
        SartorError: a cleaner lost a row, which is a fault of ours.
    """
    stream = iter(rows)
    for step in steps:
        stream = _through(stream, step, context, tell)
    return stream


def _through(
    rows: Iterator[Example], step: Chosen, context: Context, tell: Callable[[LedgerEntry], None]
) -> Iterator[Example]:
    """One step: an outcome for each row, its entries told, its example given on."""
    num_in = num_out = 0

    def counted() -> Iterator[Example]:
        nonlocal num_in
        for row in rows:
            num_in += 1
            yield row

    given: Iterable[Example] = Kept(counted()) if step.cleaner.WHOLE else counted()
    for outcome in step.cleaner.clean(given, step.config, context):
        num_out += 1
        for entry in outcome.entries:
            tell(entry)
        if outcome.example is not None:
            yield outcome.example
    if num_out != num_in:
        raise SartorError(
            f"the cleaner {step.name} took {num_in} rows and told of {num_out}",
            hint="this is a fault of the cleaner: please report it, with the file if you can",
        )


class Kept:
    """Rows of a stream that can be gone through again, in memory as long as they are few."""

    def __init__(self, rows: Iterable[Example]) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(MOST_HELD)  # noqa: SIM115
        for row in rows:
            self._file.write(row.model_dump_json().encode(CODE) + b"\n")

    def __iter__(self) -> Iterator[Example]:
        self._file.seek(0)
        return map(EXAMPLE.validate_json, self._file)
