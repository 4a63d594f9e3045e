"""Cleaners: one file each, from examples to examples and ledger entries. Nothing goes away without its line and reason.

A file `data/clean/x.py` holds

- `SUMMARY`: one line for people;
- `REASONS`: the words that its ledger entries use;
- `SELECTS`: it chooses among rows that are good in themselves (outliers, noisy labels), or looks at what is held out
  (contamination), so it never sees a test split;
- `WHOLE`: it has to see all examples before it can say anything of the first: `rows` can then be gone through again;
- `Config`: its settings, with a default for each;
- `clean(rows, config, context)`: one `Outcome` for each example, in the order of the rows.

What a cleaner does depends on the examples, its settings and the context alone: twice the same gives the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from sartor import names
from sartor.types import Embed, Example, Frozen, LedgerEntry

KIND = "data.clean"
NOT_MEMBERS: frozenset[str] = frozenset({"texts"})


class Outcome(NamedTuple):
    """What became of one example: `example` is what goes on, None where it is dropped; `entries` say why."""

    example: Example | None
    entries: tuple[LedgerEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """What a cleaner may know beside its examples.

    `held_out`: examples that must not be met again in these, such as the test split. `count_tokens`: of an example as
    the base sees it; None where no model is at hand. `embed`: vectors of length 1 by an encoder, likewise. `root`: the
    folder that paths in settings are relative to. `seed`: for whatever is drawn, and for names that stand for others.
    """

    held_out: Sequence[Example] = ()
    count_tokens: Callable[[Example], int] | None = None
    embed: Embed | None = None
    root: Path = Path()
    seed: int = 17


class Filed(Frozen):
    """Settings that name files and data folders, as paths from the root: what stands in them decides as well."""

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Those that are named."""


class Cleaner(Protocol):
    """What a file of this folder contains."""

    SUMMARY: str
    REASONS: tuple[str, ...]
    SELECTS: bool
    WHOLE: bool
    Config: type[Frozen]

    def clean(self, rows: Iterable[Example], config: Any, context: Context) -> Iterator[Outcome]: ...


def cleaner(name: str) -> Cleaner:
    """The cleaner of that name.

    Raises:
        RecipeError: there is none; the hint offers the nearest.
    """
    return cast("Cleaner", names.resolve(KIND, name))


def kept(example: Example, *entries: LedgerEntry) -> Outcome:
    """The example goes on, as it came or changed."""
    return Outcome(example, entries)


def dropped(example: Example, reason: str, detail: str, field: str = "") -> Outcome:
    """The example goes no further."""
    return Outcome(None, (entry_of(example, "dropped", reason, detail, field),))


def entry_of(example: Example, action: Any, reason: str, detail: str, field: str = "") -> LedgerEntry:
    """An entry for an example, at the place it came from."""
    source = example.source
    return LedgerEntry(action=action, file=source.file, line=source.line, field=field, reason=reason, detail=detail)
