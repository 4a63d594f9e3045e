"""One file on disk, whatever it is: prose gives a document, rows give examples, all else an entry that says why not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import Field

from sartor import durable, extract
from sartor.collect import Found, Place, Trip, not_taken
from sartor.data import read as data_read
from sartor.errors import DataError, RecipeError, UserError
from sartor.extract import Extracted, Note, NotTaken, licences, over
from sartor.formats import strict
from sartor.types import Document, Frozen, Json, LedgerEntry

#: Files of rows, which `data.read` reads.
ROWS: Mapping[str, str] = {
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".json": "application/json",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
}
#: Files of rows are read through this, files of prose are not.
PACKED = ".gz"
#: Largest file of prose and of rows, in bytes. Prose is held as a whole, rows are not.
PROSE_BYTES = 128 * 2**20
ROWS_BYTES = 16 * 2**30

#: What describes a place, and is no data of it.
KAGGLE_CARD = "dataset-metadata.json"
_ABOUT = frozenset({KAGGLE_CARD, "dataset_infos.json", "dataset_info.json", "croissant.json"})
#: Fields that only the card of a data set has before its text.
_DATA_CARD = re.compile(r"^(task_categories|task_ids|size_categories|dataset_info|configs|pretty_name):", re.MULTILINE)
_LFS = b"version https://git-lfs.github.com/spec/"
#: Cards and licences are short.
CARD_BYTES = 2**20


class Taste(Frozen):
    """How files are read: the settings that all sources of files share.

    `format`, `fields`: as `data.format` and `data.fields` of a recipe; sniffed where not given. `exclude`: patterns as
    in a .gitignore. `also`: suffixes that are read as plain text beside the usual ones, such as ".py".
    """

    format: str = ""
    fields: Mapping[str, str] = Field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the place says of all its files: a licence, and what goes into `about` of each. `card`: the file that says
    it of a data set, which is no part of it.
    """

    licence: str = ""
    about: Json = field(default_factory=dict)
    card: str = ""


def read_file(path: Path, label: str, taste: Taste, facts: Facts, trip: Trip) -> Iterator[Found]:
    """What a file gives. `label` is its place as people know it."""
    kind = media_type_of(label, taste)
    try:
        name = PurePosixPath(label.partition("!")[2] or label).name
        if name in _ABOUT or licences.is_licence_file(name) or label == facts.card:
            raise NotTaken("describes_the_place", "it is about the data, and no part of it")
        if not kind:
            read = ", ".join((*ROWS, *taste.also))
            raise NotTaken(
                "media_type",
                f"nothing reads {PurePosixPath(label).suffix or 'a name without suffix'}; "
                f"read as rows are {read}, and as documents {', '.join(extract.media_types())}",
            )
        rows = kind in ROWS.values()
        if trip.only and rows is not (trip.only == "examples"):
            raise NotTaken("not_asked_for", f"only {trip.only} are wanted")
        _require_content(path, rows)
        yield from (_examples if rows else _document)(path, label, kind, taste, facts, trip)
    except NotTaken as error:
        yield not_taken(label, error.reason, error.detail)


def media_type_of(label: str, taste: Taste) -> str:
    """What a file is by its suffix; "" where nobody reads it."""
    suffix = PurePosixPath(label.lower().removesuffix(PACKED)).suffix
    if rows := ROWS.get(suffix):
        return rows
    suffix = PurePosixPath(label.lower()).suffix
    return extract.media_type_of(label) or ("text/plain" if suffix in taste.also else "")


def document_of(
    content: bytes, place: str, kind: str, extracted: Extracted, facts: Facts, trip: Trip
) -> tuple[Place, Document]:
    """What an extractor made of the bytes of a place.

    Raises:
        NotTaken: there is no text.
    """
    if not extracted.text.strip():
        raise NotTaken("no_text", "nothing is left to read")
    digest = hashlib.sha256(content).hexdigest()
    time, licence = trip.time_of(place, digest), extracted.licence or facts.licence
    opened = Place(place=place, digest=digest, time=time, num_bytes=len(content), media_type=kind, licence=licence)
    return opened, Document(
        place=place,
        text=extracted.text,
        title=extracted.title,
        media_type=kind,
        digest=digest,
        time=time,
        licence=licence,
        about=facts.about | extracted.about,
    )


def noted(place: str, notes: Iterable[Note]) -> Iterator[LedgerEntry]:
    """Entries for what an extractor had to say."""
    for note in notes:
        yield LedgerEntry(action="flagged", file=place, line=0, reason=note.reason, detail=note.detail)


def facts_of(names: Iterable[str], content: Callable[[str], bytes], before: str = "") -> Facts:
    """What the files at the root of a folder or archive say of all: the card of a data set, or the licence's text.
    `before` stands before the names in places.
    """
    known = {name.lower(): name for name in names}
    licence = card = ""
    if "readme.md" in known:
        from sartor.extract.front_matter import front_matter

        text = content(known["readme.md"]).decode("utf-8", "replace").replace("\r\n", "\n")
        licence = front_matter(text)[0].get("license", "")
        card = before + known["readme.md"] if _DATA_CARD.search(text.removesuffix(front_matter(text)[1])) else ""
    if not licence and KAGGLE_CARD in known:
        licence = _kaggle_licence(content(known[KAGGLE_CARD]))
    for lower in sorted(known):
        if not licence and licences.is_licence_file(lower):
            licence = licences.from_text(content(known[lower]).decode("utf-8", "replace"))
    return Facts(licence, card=card)


def beginning(path: Path) -> bytes:
    """As much of a file as a card or a licence may have."""
    with path.open("rb") as file:
        return file.read(CARD_BYTES)


def _require_content(path: Path, rows: bool) -> None:
    size = path.stat().st_size
    limit, most = ("rows_bytes", ROWS_BYTES) if rows else ("prose_bytes", PROSE_BYTES)
    if size > most:
        raise over(limit, size, most, "bytes")
    if not size:
        raise NotTaken("empty", "0 bytes")
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise NotTaken("lfs_pointer", "a pointer of Git LFS, not the file: fetch it with `git lfs pull`")


def _document(path: Path, label: str, kind: str, taste: Taste, facts: Facts, trip: Trip) -> Iterator[Found]:
    content = path.read_bytes()
    extracted = extract.extract(content, kind)
    yield from document_of(content, label, kind, extracted, facts, trip)
    yield from noted(label, extracted.notes)


def _examples(path: Path, label: str, kind: str, taste: Taste, facts: Facts, trip: Trip) -> Iterator[Found]:
    """Row by row, so that a file of any size fits. Where it breaks off behind the rows that its format is told from,
    what stands before the break is kept.
    """
    broken: NotTaken | None = None
    about: Json = dict(facts.about)
    try:
        found = data_read.stream(path, format=taste.format or None, fields=taste.fields, label=label)
        for outcome in found:
            if outcome.example is not None:
                yield outcome.example
            yield from outcome.entries
        about |= {"format": found.format, "rows": found.rows}
    except RecipeError:
        raise
    except DataError as error:
        where = f" (line {error.where.line})" if error.where and error.where.line else ""
        broken = NotTaken("unreadable", f"{error.message.splitlines()[0]}{where}; {error.hint}")
    digest = durable.sha256(path)
    yield Place(
        place=label,
        digest=digest,
        time=trip.time_of(label, digest),
        num_bytes=path.stat().st_size,
        media_type=kind,
        licence=facts.licence,
        about=about,
    )
    if broken:
        raise broken


def _kaggle_licence(content: bytes) -> str:
    try:
        value = strict.loads(content)
    except UserError:
        return ""
    found = value.get("licenses") if isinstance(value, dict) else None
    first = found[0] if isinstance(found, list) and found else None
    name = first.get("name") if isinstance(first, dict) else None
    return name if isinstance(name, str) else ""
