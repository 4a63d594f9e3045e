"""Personal identifiers in running text: one kind a file, found by its shape and by its check digits.

A file `data/finding/identifiers/x.py` holds

- `SUMMARY`: one line for people;
- `find(text, countries)`: where such identifiers stand, as (start, end); `countries` are the ISO codes whose national
  spellings count, for kinds that are written differently in each;
- `canonical(value)`: the same for every spelling of one identifier;
- `stand_in(value, draw)`: another identifier of the same shape, made of `draw` alone.

Kinds may overlap: `found_in` lets the longest win, and of two as long the first by name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from sartor import names
from sartor.data.finding.identifiers.draw import Draw

KIND = "data.finding.identifiers"
NOT_MEMBERS: frozenset[str] = frozenset({"checks", "draw", "runs"})


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text: `text[start:end]` is something of this kind."""

    start: int
    end: int
    kind: str


class Identifier(Protocol):
    """What a file of this folder contains."""

    SUMMARY: str

    def find(self, text: str, countries: Sequence[str]) -> Iterator[tuple[int, int]]: ...

    def canonical(self, value: str) -> str: ...

    def stand_in(self, value: str, draw: Draw) -> str: ...


def identifier(kind: str) -> Identifier:
    """The kind of that name.

    Raises:
        RecipeError: there is none; the hint offers the nearest.
    """
    return cast("Identifier", names.resolve(KIND, kind))


def found_in(text: str, kinds: Sequence[tuple[str, Identifier]], countries: Sequence[str]) -> tuple[Span, ...]:
    """All identifiers of these kinds in a text, in its order; no two overlap."""
    spans = [Span(start, end, name) for name, kind in kinds for start, end in kind.find(text, countries)]
    return apart(spans)


def apart(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans of which no two overlap, in the order of the text: the longest stay, of two as long the first by kind."""
    taken: list[Span] = []  # in the order of the text: only the two beside a span can overlap it
    for span in sorted(spans, key=lambda span: (span.start - span.end, span.kind, span.start)):
        place = bisect_right(taken, span.start, key=lambda other: other.start)
        beside = taken[max(0, place - 1) : place + 1]
        if all(span.end <= other.start or other.end <= span.start for other in beside):
            taken.insert(place, span)
    return tuple(taken)


def stand_in_of(kind: str, member: Identifier, value: str, seed: int) -> str:
    """What stands for a value: the same for all its spellings, for a seed. Whoever knows the seed can try values."""
    return member.stand_in(value, Draw(f"{seed}:{kind}:{member.canonical(value)}"))
