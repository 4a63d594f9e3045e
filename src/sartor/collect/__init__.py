"""Sources: one kind of place each, from a place to documents or examples, and an entry for all that is not taken.

A file `collect/x.py` holds

- `SUMMARY`: one line for people;
- `Config`: its settings; `place` is the place as its user wrote it, `root` what relative paths start from;
- `matches(place, root)`: is this a place of this kind? Told by its form, by at most one source for any place;
- `find(config, trip)`: what is there, in an order that depends on the place alone.

Whatever is opened is a `Place` with its digest, its time and its licence; each document or example names its place.
`collect/gather.py` puts all of it into a data folder.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from pydantic import Field

from sartor import names
from sartor.collect.journal import Index
from sartor.types import Document, Example, Frozen, Json, LedgerEntry

KIND = "collect"
NOT_MEMBERS: frozenset[str] = frozenset(
    {"addresses", "connecting", "fetching", "gather", "ignoring", "journal", "logged", "reading", "robots", "sitemaps"}
    | {"unpacking", "urls", "visits", "walking"}
)

PLACES = "places.jsonl"

Only = Literal["", "documents", "examples"]


class Place(Frozen):
    """One thing that was opened: a file, a member of an archive, a page. A line of `places.jsonl`."""

    place: str
    digest: str
    time: str
    num_bytes: int
    media_type: str
    licence: str = ""
    about: Json = Field(default_factory=dict)


Found = Document | Example | LedgerEntry | Place


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day in UTC, seconds that only grow, and waiting."""

    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)
    seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def stamp(self) -> str:
        """Now, as ISO 8601 in whole seconds."""
        return self.now().isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Trip:
    """What a source is told beside its settings.

    `only`: what is wanted, where one of both. `earlier`, `documents`: places and documents of the folder that is
    replaced, by place: what has not changed keeps its time. `sidecar`: a folder for the state of a source that takes
    long; it is gone when all is done.
    """

    sidecar: Path
    clock: Clock = field(default_factory=Clock)
    only: Only = ""
    earlier: Index = field(default_factory=Index)
    documents: Index = field(default_factory=Index)

    def time_of(self, place: str, digest: str) -> str:
        """When these bytes were first found there: two collections of what has not changed are the same."""
        before = self.earlier.get(place)
        return str(before["time"]) if before and before["digest"] == digest else self.clock.stamp()


class Source(Protocol):
    """What a file of this folder contains."""

    SUMMARY: str
    Config: type[Frozen]

    def matches(self, place: str, root: Path) -> bool: ...

    def find(self, config: Any, trip: Trip) -> Iterator[Found]: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """A place with the source that reads it, and its settings."""

    source: str
    config: Frozen


def source(name: str) -> Source:
    """The source of that name.

    Raises:
        RecipeError: there is none; the hint offers the nearest.
    """
    return cast("Source", names.resolve(KIND, name))


def readable(name: str) -> str:
    """The name of a file as text, whatever its bytes are: in Latin-1, `café.md` becomes `caf\\xe9.md`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def not_taken(place: str, reason: str, detail: str, *, field: str = "") -> LedgerEntry:
    """An entry for a whole file, member or page."""
    return LedgerEntry(action="dropped", file=place, line=0, field=field, reason=reason, detail=detail)
