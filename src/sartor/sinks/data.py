"""Data sets for people: what differs between two versions."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from sartor.data.clean.texts import whole_of
from sartor.report.words import visible

if TYPE_CHECKING:
    from sartor.data.diff import Difference, Tally

_COLOURS = {"removed": "red", "changed": "yellow", "added": "green"}
#: Of a text, in characters.
SHOWN = 160


def show_difference(found: Difference) -> RenderableType:
    """A row, what became of it and why; of changed texts both versions."""
    text = Text.assemble((f"{found.what:7} ", _COLOURS[found.what]), visible(f"{found.id}  {', '.join(found.reasons)}"))
    for entry in found.entries:
        if entry.detail:
            text.append(visible(f"\n        {entry.detail}"), style="dim")
    for edit in found.edits:
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(edit.before, edit.after, strict=False)))
        before, after = (_short(version, around=same) for version in (edit.before, edit.after))
        text.append(visible(f"\n      - {before}\n      + {after}"))
    if not found.edits:
        text.append(visible(f"\n        {_short(whole_of(found.example))}"))
    return text


def show_tally(tally: Tally, limit: int) -> RenderableType:
    """How many rows differ, by what and why."""
    lines = [f"{tally.before:,} rows before, {tally.after:,} after"]
    lines += [f"  {count:,} {what}: {reason}" for (what, reason), count in tally.differences.most_common()]
    hidden = tally.differences.total() - limit
    return Text("\n".join(lines) + (f"\n  ({hidden:,} are not listed above: --limit)" if hidden > 0 else ""))


def _short(text: str, *, around: int = 0) -> str:
    """The beginning of a text on one line, or what stands around a place in it."""
    start = max(0, around - SHOWN // 3)
    line = " ".join(text[start : start + 2 * SHOWN].split())
    return ("…" if start else "") + (line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…")
