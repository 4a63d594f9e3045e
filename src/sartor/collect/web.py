"""The pages of a site: what it allows, no faster than it wants, and never a machine that is not public.

A crawl is a loop over what is known: whatever stands in the journal is not fetched again, so a killed one goes on where
it stopped, and in the same order. What robots.txt, a page or its headers say against it is obeyed and listed.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sartor import __version__
from sartor.collect import Found, Trip, not_taken
from sartor.collect.addresses import Lookup
from sartor.collect.ignoring import ignored
from sartor.collect.journal import Journal
from sartor.collect.robots import CALLED, Rules, rules_of, unreachable
from sartor.collect.urls import PORTS, host_and_port, is_web, normal, origin, path_of, site
from sartor.data.extra import needs
from sartor.errors import DataError
from sartor.extract import NotTaken
from sartor.types import Frozen, digest_of

if TYPE_CHECKING:
    from sartor.collect.fetching import Fetcher
    from sartor.collect.visits import Visit

SUMMARY = "the pages of a web site, as its robots.txt allows"

#: RFC 9309: rules are kept for a day at most, in seconds.
_RULES_SECONDS = 24 * 3600.0
#: A robots.txt of more bytes than this is no robots.txt.
_ROBOTS_MOST = 8 * 2**20


#: Settings that change nothing about what a page is: a killed crawl may go on with others.
_MANNERS = {"contact", "max_pages", "max_depth", "delay", "longest_delay", "retries"}


class Config(Frozen):
    """Where to begin, how far to go, and how to behave.

    `contact`: a mail or web address for the site's owner, sent with every request. `hosts`: others that belong to the
    site. `under`: only pages whose path starts so. `exclude`: paths to leave out, as in a .gitignore. `allow_private`:
    the host that it begins with may be on this machine or a private network. Times are in seconds, `delay` the least
    between two requests; a site that asks for more than `longest_delay` is left alone.
    """

    place: str
    root: str = ""
    contact: str = ""
    max_pages: int = 1000
    max_depth: int = 10
    page_bytes: int = 32 * 2**20
    hosts: tuple[str, ...] = ()
    under: str = "/"
    exclude: tuple[str, ...] = ()
    sitemaps: bool = True
    allow_private: bool = False
    delay: float = 1.0
    longest_delay: float = 60.0
    part_seconds: float = 20.0
    answer_seconds: float = 120.0
    longest_wait: float = 120.0
    retries: int = 2


def matches(place: str, root: Path) -> bool:
    """An address that begins with http:// or https://."""
    return is_web(place)


def find(config: Config, trip: Trip) -> Iterator[Found]:
    """The pages that can be reached, nearest first.

    Raises:
        DataError: the address is none.
    """
    if trip.only == "examples":
        yield not_taken(config.place, "not_asked_for", "only examples are wanted, and pages are documents")
        return
    yield from Crawl.of(config, trip).run()


def _private(start: str) -> frozenset[tuple[str, int]]:
    """What may be private if the user says so: the very host and port, over http and https where it has the usual."""
    host, port = host_and_port(start)
    return frozenset((host, other) for other in (PORTS.values() if port in PORTS.values() else (port,)))


@dataclass(slots=True)
class Crawl:
    """One crawl: what waits, what was offered, and what is taken, by address, by canonical address and by content."""

    config: Config
    trip: Trip
    start: str
    journal: Journal
    fetcher: Fetcher
    waiting: deque[tuple[str, int]] = field(default_factory=deque)
    offered: set[str] = field(default_factory=set)
    taken: dict[str, str] = field(default_factory=dict)
    rules: dict[str, tuple[Rules, float]] = field(default_factory=dict)
    num_pages: int = 0

    @classmethod
    def of(cls, config: Config, trip: Trip, lookup: Lookup = socket.getaddrinfo) -> Crawl:
        """A crawl that has not begun, or goes on."""
        needs("httpx2")
        from sartor.collect.fetching import Fetcher, Manners

        try:
            start = normal(config.place)
        except NotTaken as error:
            raise DataError(
                f"cannot crawl {config.place}: {error.detail}", hint="for example https://example.org/docs/"
            ) from error
        contact = f" (+{config.contact})" if config.contact else ""
        manners = Manners(
            agent=f"{CALLED}/{__version__}{contact}",
            delay=config.delay,
            answer_seconds=config.answer_seconds,
            part_seconds=config.part_seconds,
            longest_wait=config.longest_wait,
            retries=config.retries,
            private=_private(start) if config.allow_private else frozenset(),
        )
        journal = Journal(trip.sidecar / f"web-{digest_of(config.model_dump(exclude=_MANNERS))[:12]}.jsonl")
        return cls(config, trip, start, journal, Fetcher(manners, trip.clock, lookup))

    def run(self) -> Iterator[Found]:
        """All that it finds."""
        try:
            yield from self._offer(self.start, 0)
            if self.config.sitemaps:
                yield from self._sitemaps()
            while self.waiting:
                yield from self._next(*self.waiting.popleft())
        finally:
            self.fetcher.close()

    def _next(self, address: str, depth: int) -> Iterator[Found]:
        if (place := self.taken.get(address)) is not None:  # another address led to it
            if place != address:
                yield not_taken(address, "canonical", f"it is {place}, which is taken already")
            return
        if self.num_pages >= self.config.max_pages:
            yield not_taken(address, "max_pages", f"the limit max_pages is {self.config.max_pages:,}")
            return
        visit = self._visit(address)
        yield from self._chosen(visit)
        for link in visit.links:
            yield from self._offer(link, depth + 1)

    def _visit(self, address: str) -> Visit:
        """From the journal, or from the web and then into the journal. What may not be asked for is not remembered:
        the site may have other rules next time.
        """
        from sartor.collect.visits import Visit, visit

        if done := self.journal.get(address):
            self.num_pages += 1
            return Visit.model_validate(done["visit"])
        try:
            self._allowed(address)
        except NotTaken as error:
            return Visit(address=address, entries=(not_taken(address, error.reason, error.detail),))
        self.num_pages += 1
        made = visit(address, self.fetcher, self._allowed, self.config.page_bytes, self.trip)
        if made.settled:
            self.journal.put(address, {"visit": made.model_dump(mode="json")})
        return made

    def _chosen(self, visit: Visit) -> Iterator[Found]:
        """What a visit gave, if it is not there under another address."""
        document = visit.document
        if document is None:
            yield from visit.found()
            return
        known_by = visit.canonical if visit.canonical and self._is_ours(visit.canonical) else visit.address
        for key, reason in ((visit.address, "duplicate"), (known_by, "canonical"), (document.digest, "same_content")):
            if key in self.taken:
                yield not_taken(visit.address, reason, f"it is {self.taken[key]}, which is taken already")
                return
        self.taken |= dict.fromkeys((visit.address, known_by, document.digest), visit.address)
        yield from visit.found()

    def _offer(self, address: str, depth: int) -> Iterator[Found]:
        """Put an address to those that wait, once; what is not ours is listed, once too."""
        if address in self.offered:
            return
        self.offered.add(address)
        try:
            self._require_ours(address, "other_site")
            if depth > self.config.max_depth:
                raise NotTaken("max_depth", f"{depth} links away, and the limit max_depth is {self.config.max_depth}")
        except NotTaken as error:
            yield not_taken(address, error.reason, error.detail)
        else:
            self.waiting.append((address, depth))

    def _is_ours(self, address: str) -> bool:
        others = {host.lower().removeprefix("www.") for host in self.config.hosts}
        return site(address) == site(self.start) or site(address) in others

    def _require_ours(self, address: str, reason: str) -> None:
        if not self._is_ours(address):
            raise NotTaken(reason, f"it is not on {site(self.start)}; to take it, name its host too")
        path = path_of(address)
        if not path.startswith(self.config.under):
            raise NotTaken("excluded", f"its path does not start with {self.config.under}")
        if pattern := ignored(path.strip("/"), self.config.exclude):
            raise NotTaken("excluded", f"by the pattern {pattern}")

    def _allowed(self, address: str) -> None:
        """Asked before every hop."""
        self._require_ours(address, "redirected_away")
        self._rules(address).require(address)

    def _rules(self, address: str) -> Rules:
        """The rules for an address, fetched once a day."""
        place, now = origin(address), self.trip.clock.seconds()
        if place not in self.rules or now - self.rules[place][1] > _RULES_SECONDS:
            found = self._fetched_rules(place)
            if found.delay > self.config.longest_delay:
                limit = f"the limit longest_delay is {self.config.longest_delay:,.0f}"
                found = Rules(closed=("crawl_delay", f"it asks for {found.delay:,.0f} s between pages, and {limit}"))
            self.rules[place] = found, now
            ours = [rules.delay for other, (rules, _) in self.rules.items() if site(other) == site(place)]
            self.fetcher.delays[site(place)] = max(ours)  # http, https and www may be one machine
        return self.rules[place][0]

    def _fetched_rules(self, place: str) -> Rules:
        from sartor.collect.fetching import Passing

        try:
            reply = self.fetcher.fetch(f"{place}/robots.txt", most=_ROBOTS_MOST, allowed=lambda hop: None)
        except Passing as error:
            return unreachable(f"robots.txt cannot be read: {error.detail}")
        except NotTaken as error:
            return Rules(closed=(error.reason, error.detail))
        return rules_of(reply.status, reply.content)

    def _sitemaps(self) -> Iterator[Found]:
        """Offer what the site's own lists have. The usual place is tried where robots.txt names none."""
        from sartor.collect.sitemaps import SITEMAPS

        named = self._rules(self.start).sitemaps
        usual = f"{origin(self.start)}/sitemap.xml"
        waiting, seen = deque(named or (usual,)), set()
        while waiting:
            written = waiting.popleft()
            try:
                address = normal(written, self.start)
                if address in seen:
                    continue
                seen.add(address)
                if len(seen) > SITEMAPS:
                    raise NotTaken("sitemaps", f"the limit sitemaps is {SITEMAPS}")
                found, is_index = self._sitemap(address)
            except NotTaken as error:
                if named:  # nobody promised the usual one
                    yield not_taken(written[:200], error.reason, f"a sitemap: {error.detail}")
                continue
            if is_index:
                waiting.extend(found)
                continue
            for page in found:
                try:
                    yield from self._offer(normal(page, address), 1)
                except NotTaken as error:
                    yield not_taken(page[:200], error.reason, f"in the sitemap {address}: {error.detail}")

    def _sitemap(self, address: str) -> tuple[list[str], bool]:
        """The addresses of a sitemap, and whether they are of sitemaps."""
        from sartor.collect.sitemaps import SITEMAP_BYTES, addresses

        def allowed(hop: str) -> None:
            if not self._is_ours(hop):
                raise NotTaken("redirected_away", f"it is not on {site(self.start)}")
            self._rules(hop).require(hop)

        reply = self.fetcher.fetch(address, most=SITEMAP_BYTES, allowed=allowed)
        if reply.status != 200:
            raise NotTaken("status", f"the server answered {reply.status}")
        return addresses(reply.content)
