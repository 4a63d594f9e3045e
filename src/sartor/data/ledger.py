"""The row ledger: rows in = rows kept + rows dropped, each with its line and its reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sartor.errors import DataError, SartorError, Where
from sartor.types import LedgerEntry

#: Why a row could not be read: the closed set of words that reading uses. Cleaning and checking have their own.
UNREADABLE = frozenset(
    {
        "syntax",
        "encoding",
        "not_an_object",
        "duplicate_key",
        "not_a_number",
        "too_long",
        "too_deep",
        "unknown_format",
        "field",
    }
)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of `rows_in` rows: `kept` of them are used, each other one is an entry `dropped`.

    Raises (on construction):
        SartorError: the numbers do not add up, which is a fault of ours.
    """

    rows_in: int
    kept: int
    entries: tuple[LedgerEntry, ...] = ()

    def __post_init__(self) -> None:
        if self.rows_in != self.kept + self.dropped:
            raise SartorError(
                f"{self.rows_in} rows came in, {self.kept} were kept and {self.dropped} dropped: rows are lost",
                hint="this is a fault of sartor: please report it, with the file if you can",
            )

    @property
    def dropped(self) -> int:
        return sum(entry.action == "dropped" for entry in self.entries)

    def counts(self, action: Literal["dropped", "changed", "flagged"] = "dropped") -> dict[str, int]:
        """Entries by reason, the most frequent first."""
        return dict(Counter(entry.reason for entry in self.entries if entry.action == action).most_common())


def refuse_if_many(ledger: Ledger, allowed: float = 0.01) -> None:
    """Refuse a file of which more than the share `allowed` (0 to 1) cannot be read.

    Raises:
        DataError: with the first rows that cannot be read, and the recipe key that allows more.
    """
    bad = unreadable(ledger.entries)
    if not ledger.rows_in or len(bad) <= allowed * ledger.rows_in:
        return
    share = len(bad) / ledger.rows_in
    enough = math.ceil(share * 1000) / 1000
    onwards = f"correct these rows, or go on without them: `data.max_bad_rows: {enough:g}` in the recipe"
    none = "no row is left to go on with: correct the rows, or `data.format` and `data.fields` in the recipe"
    raise DataError(
        f"{len(bad):,} of {ledger.rows_in:,} rows cannot be read ({share:.2%}; allowed {allowed:.2%})\n{listed(bad)}",
        hint=onwards if len(bad) < ledger.rows_in else none,
        where=Where(bad[0].file),
    )


def unreadable(entries: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
    """The entries of rows that could not be read, in the order of the file."""
    return tuple(entry for entry in entries if entry.action == "dropped" and entry.reason in UNREADABLE)


def listed(entries: Sequence[LedgerEntry]) -> str:
    """The first five entries, one a line, and how many there are beyond them."""
    lines = [f"  {Where(entry.file, entry.line, entry.field)}: {entry.detail}" for entry in entries[:_SHOWN]]
    more = len(entries) - len(lines)
    return "\n".join([*lines, f"  … and {more:,} more"] if more else lines)
