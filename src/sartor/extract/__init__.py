"""Extractors: one kind of file each, from bytes to text for readers, with what the file says of itself.

A file `extract/x.py` holds

- `SUMMARY`: one line for people;
- `MEDIA_TYPES` and `SUFFIXES`: what it reads, the usual one first;
- `extract(content, charset)`: an `Extracted`. It raises `NotTaken` with a reason, and no other error.

Bytes come from strangers: each extractor measures before it parses, and a limit that is met is named in the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol, cast

from sartor import names
from sartor.errors import DataError
from sartor.types import Json

KIND = "extract"
NOT_MEMBERS: frozenset[str] = frozenset({"encodings", "front_matter", "licences", "nesting"})


class NotTaken(DataError):
    """One document, file or page is not taken: `reason` is the ledger's word, `detail` what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}", hint="it is left out, and stands in the ledger")
        self.reason = reason
        self.detail = detail


def over(limit: str, seen: float, most: float, unit: str) -> NotTaken:
    """A limit is met; its name is the reason."""
    return NotTaken(limit, f"{seen:,.0f} {unit}, and the limit {limit} is {most:,.0f}")


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know of a document that is taken: it becomes a ledger entry `flagged`."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of a document. `about`: language, pages and the like, as the document says.

    For a crawler: `links` as they are written, resolved against `base` where there is one; `canonical`, the address
    that the page wants to be known by; `robots`, the words of its robots meta tags.
    """

    text: str
    title: str = ""
    licence: str = ""
    about: Json = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    links: tuple[str, ...] = ()
    base: str = ""
    canonical: str = ""
    robots: frozenset[str] = frozenset()


class Extractor(Protocol):
    """What a file of this folder contains."""

    SUMMARY: str
    MEDIA_TYPES: tuple[str, ...]
    SUFFIXES: tuple[str, ...]

    def extract(self, content: bytes, charset: str = "") -> Extracted: ...


def extractor(name: str) -> Extractor:
    """The extractor of that name."""
    return cast("Extractor", names.resolve(KIND, name))


def extract(content: bytes, media_type: str, charset: str = "") -> Extracted:
    """The text in bytes of a media type. `charset` is what the place said, if it did.

    Raises:
        NotTaken: nothing reads this type, or the bytes are not what they should be.
    """
    known = media_types()
    if media_type not in known:
        raise NotTaken("media_type", f"{media_type or 'no media type'}; read are {', '.join(known)}")
    return extractor(known[media_type]).extract(content, charset)


def media_type_of(name: str) -> str:
    """The media type of a file by its suffix; "" where nothing of ours reads it."""
    return _suffixes().get(PurePosixPath(name.lower()).suffix, "")


@functools.cache
def media_types() -> Mapping[str, str]:
    """Media type to extractor."""
    return {kind: name for name in names.known(KIND) for kind in extractor(name).MEDIA_TYPES}


@functools.cache
def _suffixes() -> Mapping[str, str]:
    return {suffix: extractor(name).MEDIA_TYPES[0] for name in names.known(KIND) for suffix in extractor(name).SUFFIXES}
