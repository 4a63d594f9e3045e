"""Lines that go straight from their bytes to an example, because their format has a quick way for plain rows.

It opens when the format is known, and closes where most rows are not plain: then trying costs more than it saves. What
comes of a row is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sartor.formats.plain import plain_line
from sartor.types import Example, Source

#: Formats with a quick way from the bytes of a row; None: not a plain row.
LINES: dict[str, Callable[[bytes, Source], Example | None]] = {"chat": plain_line}
#: How many rows more may be tried in vain than with success.
_PATIENCE = 1000


class Arrived(NamedTuple):
    """A row that is an example already."""

    line: int
    example: Example


@dataclass(slots=True)
class Express:
    """The quick way for one file, closed until its format is known."""

    label: str
    read: Callable[[bytes, Source], Example | None] | None = None
    patience: int = _PATIENCE

    def open_for(self, format: str) -> None:
        self.read = LINES.get(format)

    def take(self, raw: bytes, line: int) -> Arrived | None:
        """The row, if it is a plain one and the way is open."""
        if self.read is None:
            return None
        example = self.read(raw, Source(file=self.label, line=line))
        if example is not None:
            self.patience = min(self.patience + 1, _PATIENCE)
            return Arrived(line, example)
        self.patience -= 1
        if self.patience < 0:
            self.read = None
        return None
