"""Words of a list that you bring: told, masked, or the row dropped. No list comes with Sartor.

The file has a word or phrase on each line; case is ignored, `*` at the end stands for any ending, and lines that start
with `#` are notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from sartor.data.clean import Context, Filed, Outcome, kept
from sartor.data.finding.identifiers import Span
from sartor.data.finding.redact import Redaction
from sartor.errors import DataError
from sartor.types import Example

SUMMARY = "finds the words of a list that you name in `words`"
REASONS = ("listed_word",)
SELECTS = False
WHOLE = False

_MOST = 200_000  # lines of a list


class Config(Filed):
    words: str = Field(default="", description="the file of words, one a line; without one nothing is looked for")
    action: Literal["report", "mask", "drop"] = Field(
        default="report", description="tell of it, write *** in its place, or drop the row"
    )

    @property
    def files(self) -> tuple[str, ...]:
        return (self.words,) if self.words else ()


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    if not config.words:
        return map(kept, rows)
    pattern = _pattern(context.root, config.words)

    def find(text: str) -> tuple[Span, ...]:
        return tuple(Span(*match.span(), "listed_word") for match in pattern.finditer(text))

    return map(Redaction(find, config.action, lambda kind, value: "***", "masked").of, rows)


def _pattern(root: Path, name: str) -> re.Pattern[str]:
    """One expression for all words, the longest first.

    Raises:
        DataError: the file cannot be read, or has no words.
    """
    try:
        lines = (root / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of words {name}", hint="a UTF-8 text with one word a line") from error
    words = sorted(
        {line.strip() for line in lines if line.strip() and not line.startswith("#")},
        key=lambda word: (-len(word), word),
    )
    if not 0 < len(words) <= _MOST:
        raise DataError(f"the list {name} has {len(words):,} words", hint=f"one word a line, 1 to {_MOST:,} of them")
    parts = (re.escape(word[:-1]) + r"\w*" if word.endswith("*") else re.escape(word) for word in words)
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)
