"""Dataset formats: one file per format, from a row (a parsed JSON object) to an Example.

A file `formats/x.py` holds

- `SUMMARY`: one line for people;
- `FIELDS`: the names that it reads from a row, for the field map and for messages;
- `SAMPLE`: one valid row;
- `matches(row)`: is this row of this format? Decided by its keys alone, and by at most one format for any SAMPLE;
- `parse(row, source) -> Parsed`: the example, and what had to be changed to get it. It raises
  `FieldError(field, seen=…, expected=…)`, the field a path such as `messages[2].content`, and no other error;
- `WRITES`: whether there is also `write(example) -> Written`, the way back: the row, and what it cannot hold of the
  example. It raises `FieldError` where nothing of use would be left.

What a person wrote is kept exactly: no text is stripped, joined with a space or normalised.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from sartor import names
from sartor.errors import DataError, RecipeError, Where
from sartor.formats.fields import shorten
from sartor.formats.keys import RATING
from sartor.types import Example, Json, Source

NOT_MEMBERS: frozenset[str] = frozenset(
    {"answers", "calls", "fields", "instructions", "keys", "plain", "speakers", "strict", "turns", "writing"}
)

#: How alike a key must be to a field: `promt` and `prompt` have 0.91, `conversations` and `completion` 0.70.
_NEAR = 0.75


@dataclass(frozen=True, slots=True)
class Change:
    """What had to be changed to use a row: it becomes a ledger entry `changed`."""

    field: str
    reason: str
    detail: str


class Parsed(NamedTuple):
    """One example, and what was changed to get it (almost always nothing)."""

    example: Example
    changes: tuple[Change, ...] = ()


class Written(NamedTuple):
    """One row, and what of the example it does not hold."""

    row: Json
    changes: tuple[Change, ...] = ()


class Format(Protocol):
    """What a file of this folder contains."""

    SUMMARY: str
    FIELDS: tuple[str, ...]
    SAMPLE: Json
    WRITES: bool

    def matches(self, row: Json) -> bool: ...

    def parse(self, row: Json, source: Source) -> Parsed: ...


class Writer(Format, Protocol):
    """What a file contains whose `WRITES` is true."""

    def write(self, example: Example) -> Written: ...


def writer(name: str) -> Writer:
    """The format of that name, if it can be written.

    Raises:
        RecipeError: there is none, or it is only read.
    """
    form = named(name)
    if not form.WRITES:
        writers = tuple(known for known in names.known("formats") if named(known).WRITES)
        raise RecipeError(f"the format {name!r} is read, but not written", hint=f"write one of: {', '.join(writers)}")
    return cast("Writer", form)


def named(name: str) -> Format:
    """The format of that name.

    Raises:
        RecipeError: there is none; the hint offers the nearest.
    """
    return cast("Format", names.resolve("formats", name))


def reading(fields: Collection[str]) -> tuple[str, ...]:
    """The formats that read all the names in `fields` (the user's field map); all formats where there are none.

    Raises:
        RecipeError: no format reads them.
    """
    known = names.known("formats")
    readers = tuple(name for name in known if set(fields) <= set(named(name).FIELDS))
    if readers:
        return readers
    known_fields = tuple(sorted({field for name in known for field in named(name).FIELDS}))
    strange = sorted(set(fields) - set(known_fields))
    if strange:
        hint = names.suggest(strange[0], known_fields)
        raise RecipeError(f"data.fields: no format has a field {strange[0]!r}", hint=hint)
    raise RecipeError(f"data.fields: no one format reads all of {', '.join(sorted(fields))}", hint=_listed(known))


def sniff(rows: Sequence[Json], *, among: Sequence[str] = (), where: Where | None = None) -> str:
    """The format that most of the rows match, among the named formats or all.

    Raises:
        DataError: no row matches any format, or two formats match equally often.
    """
    candidates = {name: named(name) for name in among or names.known("formats")}
    votes = Counter(name for row in rows for name, form in candidates.items() if form.matches(row))
    top = votes.most_common(2)
    if not top:
        raise _unmatched(rows, candidates, where)
    if len(top) == 2 and top[0][1] == top[1][1]:
        first, second = sorted(name for name, _ in top)
        raise DataError(
            f"{top[0][1]} of the first {len(rows)} rows look like {first}, and as many like {second}",
            hint=f"say which in the recipe: `data.format: {first}` or `data.format: {second}`; "
            "rows of two formats belong in two files",
            where=where,
        )
    return top[0][0]


def _unmatched(rows: Sequence[Json], among: Collection[str], where: Where | None) -> DataError:
    counts = Counter(key for row in rows for key in row)
    common = [key for key, _ in counts.most_common(12)]
    shown = ", ".join(f"`{shorten(key)}`" for key in common) or "no keys at all"
    known_fields = sorted({field for name in among for field in named(name).FIELDS})
    near = [
        f"`{shorten(key)}` looks like `{match}`"
        for key in common
        for match in difflib.get_close_matches(key, known_fields, n=1, cutoff=_NEAR)
        if match != key
    ]
    rating = [f"`{key}`" for key in RATING if key in counts]
    if rating:
        near.append(f"rows with {', '.join(rating)} rate answers: they are imitated only if `data.format` says so")
    texts = [shorten(key) for key in common if all(isinstance(row.get(key), str) for row in rows)]
    example = f"prompt: {texts[0]}, completion: {texts[1]}" if len(texts) > 1 else "our field: your column"
    ways = [_listed(among), *near, f"name your columns in the recipe, as in `data.fields: {{{example}}}`"]
    return DataError(f"no format matches these rows, which hold {shown}", hint="; ".join(ways), where=where)


def _listed(formats: Collection[str]) -> str:
    return "; ".join(f"{name} reads {', '.join(named(name).FIELDS)}" for name in formats)
