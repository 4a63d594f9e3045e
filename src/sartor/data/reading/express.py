"""Lines that go straight from their bytes to an example, because their format has a quick way for plain rows.

It closes where most rows are not plain: then trying costs more than it saves. What comes of a row is the same either
way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sartor.formats.plain import plain_line
from sartor.types import Example

#: Formats with a quick way from the bytes of a row, its file and its line; None: not a plain row.
LINES: dict[str, Callable[[bytes, str, int], Example | None]] = {"chat": plain_line}
#: How many rows more may be tried in vain than with success.
_PATIENCE = 1000


@dataclass(slots=True)
class Express:
    """The quick way for one file. `patience`: how many rows may still be tried in vain."""

    label: str
    read: Callable[[bytes, str, int], Example | None]
    patience: int = _PATIENCE

    def take(self, raw: bytes, line: int) -> Example | None:
        """The row's example, if it is a plain one and the way is still open."""
        if self.patience < 0:
            return None
        example = self.read(raw, self.label, line)
        if example is None:
            self.patience -= 1
            return None
        if self.patience < _PATIENCE:
            self.patience += 1
        return example


def express_for(format: str, label: str) -> Express | None:
    """The quick way of a format, if it has one."""
    return Express(label, LINES[format]) if format in LINES else None
