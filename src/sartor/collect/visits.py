"""One page visited: what it gave, where its links lead, and why if it gave nothing. A line of a crawl's journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sartor import extract
from sartor.collect import Found, Place, Trip, not_taken
from sartor.collect.fetching import Allowed, Fetcher, Passing, Reply
from sartor.collect.reading import Facts, document_of, noted
from sartor.collect.robots import may_follow, require_index, words_of
from sartor.collect.urls import is_web, normal
from sartor.extract import Extracted, NotTaken
from sartor.types import Document, Frozen, Json, LedgerEntry

#: Links that lead to no page.
_NO_PAGES = ("mailto:", "javascript:", "data:", "tel:", "ftp:", "sms:", "blob:", "about:")


class Visit(Frozen):
    """What came of one address. `address` is where it was found in the end; `settled`: another try gives the same."""

    address: str
    place: Place | None = None
    document: Document | None = None
    entries: tuple[LedgerEntry, ...] = ()
    links: tuple[str, ...] = ()
    canonical: str = ""
    settled: bool = True

    def found(self) -> Iterator[Found]:
        """What goes into the folder."""
        if self.place and self.document:
            yield self.place
            yield self.document
        yield from self.entries


def visit(address: str, fetcher: Fetcher, allowed: Allowed, most: int, trip: Trip) -> Visit:
    """Fetch a page and read it. What an earlier collection has is asked for only if it has changed."""
    before, known = trip.earlier.get(address), trip.documents.get(address)
    about: Json = before["about"] if before and known else {}
    headers = {"If-None-Match": about.get("etag"), "If-Modified-Since": about.get("last_modified")}
    given = {name: str(value) for name, value in headers.items() if value}
    try:
        reply = fetcher.fetch(address, most=most, allowed=allowed, wanted=_require_readable, headers=given)
        if reply.status == 304 and before and known:
            return _again(Place.model_validate(before), Document.model_validate(known))
        if reply.status != 200:
            raise NotTaken("status", f"the server answered {reply.status}")
        return _read(reply, address, trip)
    except NotTaken as error:
        entry = not_taken(address, error.reason, error.detail)
        return Visit(address=address, entries=(entry,), settled=not isinstance(error, Passing))


def _require_readable(reply: Reply) -> None:
    if reply.media_type not in extract.media_types():
        known = ", ".join(extract.media_types())
        raise NotTaken("media_type", f"{reply.media_type or 'no media type'}; read are {known}")


def _read(reply: Reply, asked: str, trip: Trip) -> Visit:
    extracted = extract.extract(reply.content, reply.media_type, reply.charset)
    words = extracted.robots | words_of(reply.robots, reply.headers.get("tdm-reservation", ""))
    base = normal(extracted.base, reply.address) if extracted.base else reply.address
    links, bad = _links(extracted.links if may_follow(words) else (), base)
    canonical = _canonical(extracted, base)
    made = Visit(address=reply.address, links=links, canonical=canonical, entries=bad)
    about = {
        "status": reply.status,
        "etag": reply.headers.get("etag", ""),
        "last_modified": reply.headers.get("last-modified", ""),
        "canonical": canonical,
        "redirected_from": asked if asked != reply.address else "",
    }
    said = {name: value for name, value in about.items() if value}
    try:
        require_index(words)
        place, document = document_of(
            reply.content, reply.address, reply.media_type, extracted, Facts(about=said), trip
        )
    except NotTaken as error:
        entry = not_taken(reply.address, error.reason, error.detail)
        return made.model_copy(update={"entries": (entry, *bad)})
    entries = (*noted(reply.address, extracted.notes), *bad)
    kept = {**said, "links": links, "entries": [entry.model_dump() for entry in entries]}
    return made.model_copy(
        update={"place": place.model_copy(update={"about": kept}), "document": document, "entries": entries}
    )


def _again(place: Place, document: Document) -> Visit:
    """A page that has not changed, as it was."""
    return Visit(
        address=place.place,
        place=place,
        document=document,
        entries=tuple(map(LedgerEntry.model_validate, place.about["entries"])),
        links=tuple(place.about["links"]),
        canonical=place.about.get("canonical", ""),
    )


def _links(written: Iterable[str], base: str) -> tuple[tuple[str, ...], tuple[LedgerEntry, ...]]:
    """Where links lead, each once, in the order of the page; entries for those that lead nowhere."""
    links: dict[str, None] = {}
    bad: list[LedgerEntry] = []
    for link in written:
        if link.startswith("#") or link.lower().startswith(_NO_PAGES):
            continue
        try:
            links.setdefault(normal(link, base))
        except NotTaken as error:
            bad.append(not_taken(link[:200], error.reason, f"a link of {base}: {error.detail}"))
    return tuple(links), tuple(bad)


def _canonical(extracted: Extracted, base: str) -> str:
    try:
        made = normal(extracted.canonical, base) if extracted.canonical else ""
    except NotTaken:
        return ""
    return made if is_web(made) else ""
