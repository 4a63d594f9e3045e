"""Documents → chunks: cut where the text itself has seams, at headings first, then paragraphs, sentences, words.

Without overlap every character that is not white space is in exactly one chunk, and no chunk is larger than asked for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from sartor.types import Document, Frozen, Source

#: A chunk that is so full ends before the next heading; an emptier one takes the next section in.
_FULL = 0.5
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
#: Seams inside a section, the coarsest first; what stands before a seam ends with it.
_SEAMS = tuple(map(re.compile, (r"\n[ \t]*\n\s*", r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n+", r"\s+")))

Count = Callable[[str], int]
Span = tuple[int, int]


class Config(Frozen):
    """How large chunks are."""

    size: int = Field(default=2000, ge=16, le=1_000_000, description="The largest chunk, in units.")
    overlap: int = Field(default=0, ge=0, description="Units of the end of a chunk that the next one begins with.")
    unit: Literal["characters", "tokens"] = Field(
        default="characters", description="What sizes are counted in; tokens are those of the step's `model`."
    )
    least: int = Field(default=80, ge=0, description="A chunk of fewer characters says too little to be used.")

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Config:
        if self.overlap * 2 > self.size:
            raise ValueError(f"an overlap of {self.overlap} leaves too little of a size of {self.size}: at most half")
        return self


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: `number` counts from 1, `line` and `last_line` are where it stands, `headings` what it
    stands under."""

    document: Document
    number: int
    start: int
    end: int
    line: int
    last_line: int
    headings: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.document.text[self.start : self.end]

    @property
    def title(self) -> str:
        """What a reader would find above it."""
        return " › ".join(filter(None, (self.document.title, *self.headings)))

    @property
    def source(self) -> Source:
        """Where it is, and the name of its family: all chunks of a document stay together."""
        return Source(file=self.document.place, line=self.line, origin=self.document.id)


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    level: int
    title: str


def chunks(document: Document, config: Config, count: Count = len) -> Iterator[Chunk]:
    """The chunks of a document, in their order. `count` gives the size of a text, where the unit is tokens."""
    text = document.text
    measure = count if config.unit == "tokens" else len
    headings = list(_headings(text))
    room = config.size - config.overlap
    line, at = 1, 0
    for number, span in enumerate(_packed(text, _atoms(text, headings, room, measure), headings, room, measure), 1):
        start, end = _overlapping(text, span, config.overlap, measure) if config.overlap else span
        line += text.count("\n", at, start) if start >= at else -text.count("\n", start, at)
        at = start
        above = _above(headings, span[0])
        yield Chunk(document, number, start, end, line, line + text.count("\n", start, end), above)


def _headings(text: str) -> Iterator[_Heading]:
    """Headings of Markdown; what stands in a fence is code."""
    fence, start = "", 0
    for line in text.splitlines(keepends=True):
        opening = _FENCE.match(line)
        if opening and not fence:
            fence = opening[1]
        elif opening and opening[1].startswith(fence):
            fence = ""
        elif not fence and (found := _HEADING.match(line.rstrip("\r\n"))):
            yield _Heading(start, len(found[1]), found[2])
        start += len(line)


def _atoms(text: str, headings: list[_Heading], room: int, count: Count) -> Iterator[Span]:
    """Pieces that fit, as large as seams allow: whole sections, or paragraphs of larger ones, and so on."""
    cuts = [0, *(heading.start for heading in headings if heading.start), len(text)]
    for start, end in itertools.pairwise(cuts):
        yield from _fitting(text, (start, end), room, count, depth=0)


def _fitting(text: str, span: Span, room: int, count: Count, depth: int) -> Iterator[Span]:
    start, end = _stripped(text, span)
    if start == end:
        return
    if count(text[start:end]) <= room:
        yield start, end
    elif depth == len(_SEAMS):
        middle = (start + end) // 2
        if middle == start:  # one character of more tokens than there is room for: it cannot be smaller
            yield start, end
            return
        for half in ((start, middle), (middle, end)):
            yield from _fitting(text, half, room, count, depth)
    else:
        for part in _parts(text, (start, end), depth):
            yield from _fitting(text, part, room, count, depth + 1)


def _parts(text: str, span: Span, depth: int) -> Iterator[Span]:
    start, end = span
    for seam in _SEAMS[depth].finditer(text, start, end):
        if seam.end() > start:
            yield start, seam.end()
            start = seam.end()
    yield start, end


def _packed(text: str, atoms: Iterator[Span], headings: list[_Heading], room: int, count: Count) -> Iterator[Span]:
    """As many pieces in a row as fit. A chunk that is full enough ends where a section does."""
    starts = {_stripped(text, (heading.start, len(text)))[0] for heading in headings}
    current: Span | None = None
    for start, end in atoms:
        if current is not None:
            size = count(text[current[0] : end])
            full = start in starts and count(text[current[0] : current[1]]) >= _FULL * room
            if size <= room and not full:
                current = current[0], end
                continue
            yield current
        current = start, end
    if current is not None:
        yield current


def _overlapping(text: str, span: Span, overlap: int, count: Count) -> Span:
    """The span with as many whole sentences before it as the overlap has room for."""
    start, end = span
    reach = max(0, start - overlap * 8)  # no tokenizer makes tokens of more characters, on average
    for begin, _ in _parts(text, (reach, start), 1):
        begun = _stripped(text, (begin, start))[0]
        if (begin > reach or reach == 0) and begun < start and count(text[begun:start]) <= overlap:
            return begun, end
    return start, end


def _above(headings: list[_Heading], place: int) -> tuple[str, ...]:
    """The titles under which a place stands, the outermost first."""
    path: list[_Heading] = []
    for heading in headings:
        if heading.start > place:
            break
        path = [above for above in path if above.level < heading.level]
        path.append(heading)
    return tuple(heading.title for heading in path)


def _stripped(text: str, span: Span) -> Span:
    """The span without white space at its ends."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
