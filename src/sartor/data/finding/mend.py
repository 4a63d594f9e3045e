"""Edits of an example's texts that tell what they did: one entry for each field and reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sartor.data.clean import Outcome, entry_of, kept
from sartor.data.clean.texts import edited, texts_of
from sartor.types import Example


@dataclass(slots=True)
class Mended:
    """A text that is edited step by step, and why: `told` maps reasons to what was done, without quoting the text."""

    text: str
    told: dict[str, str] = field(default_factory=dict)

    def becomes(self, text: str, reason: str, detail: str) -> None:
        """The next step; nothing is told where it changes nothing."""
        if text != self.text:
            self.text = text
            self.told[reason] = detail


def mended(example: Example, mend: Callable[[str], Mended]) -> Outcome:
    """The example with each text mended."""
    made: dict[str, str] = {}
    entries = []
    for found in texts_of(example):
        result = mend(found.text)
        made[found.text] = result.text
        if result.text != found.text:
            entries += [
                entry_of(example, "changed", reason, detail, found.field) for reason, detail in result.told.items()
            ]
    return kept(edited(example, made.__getitem__)[0], *entries) if entries else kept(example)


def times(count: int, what: str) -> str:
    """`1 tag`, `2 tags`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
