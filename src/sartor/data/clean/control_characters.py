"""Characters that nobody sees: controls, terminal escapes, zero widths, reversed directions, and hidden tags.

Some of them carry meaning and stay: tabs and line breaks, joiners in emoji and in Arabic or Indic scripts, direction
marks in texts that are written from right to left, tags after a flag.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator

from pydantic import Field

from sartor.data.clean import Context, Outcome
from sartor.data.finding.mend import Mended, mended, times
from sartor.types import Example, Frozen

SUMMARY = "removes control, zero-width and direction characters that nobody sees"
REASONS = ("terminal_escapes", "line_ends", "control_characters", "hidden_characters", "direction_marks")
SELECTS = False
WHOLE = False

#: ECMA-48: control sequences (colours, cursor) and operating system commands (titles, links).
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_]")
_LINE_ENDS = re.compile(r"\r\n?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f]")
#: Zero-width space and no-break space, word joiner, soft hyphen, invisible operators, fillers, interlinear marks;
#: joiners only between characters that never join; tags only where no flag is before them.
_HIDDEN = re.compile(
    "[\u200b\ufeff\u2060-\u2064\u00ad\u115f\u1160\u3164\ufff9-\ufffb\u180e]"
    "|(?:(?<=[ -~])|^)[\u200c\u200d]+(?=[ -~]|$)"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]+"
)
#: Embeddings, overrides and isolates (UAX #9), with which code can be made to read as what it is not.
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_MARKS = re.compile("[\u200e\u200f\u061c]")
_FROM_THE_RIGHT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_ANY = re.compile("[^\t\n -~\u00a0-\u00ac\u00ae-\u0233\u0370-\u058f\u3040-\u30ff\u3400-\u9fff]")


class Config(Frozen):
    line_ends: bool = Field(default=True, description="write every line end as \\n")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    mend = functools.partial(_mend, config=config)
    return (mended(example, mend) for example in rows)


def _mend(text: str, config: Config) -> Mended:
    result = Mended(text)
    if _ANY.search(text) is None:
        return result
    _remove(result, _ESCAPES, "terminal_escapes", "escape")
    if config.line_ends:
        count = len(_LINE_ENDS.findall(result.text))
        result.becomes(_LINE_ENDS.sub("\n", result.text), "line_ends", times(count, "line end"))
    _remove(result, _CONTROLS if config.line_ends else _WITHOUT_RETURN, "control_characters", "character")
    _remove(result, _HIDDEN, "hidden_characters", "character")
    if _FROM_THE_RIGHT.search(result.text) is None:
        _remove(result, re.compile(f"{_DIRECTIONS.pattern}|{_MARKS.pattern}"), "direction_marks", "character")
    return result


_WITHOUT_RETURN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


def _remove(result: Mended, what: re.Pattern[str], reason: str, word: str) -> None:
    text, count = what.subn("", result.text)
    result.becomes(text, reason, f"{times(count, word)} removed")
