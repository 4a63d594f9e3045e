"""One address fetched: politely, within limits, and every hop of it checked before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sartor.ask.wire import retry_after
from sartor.collect import Clock
from sartor.collect.addresses import Lookup, resolved
from sartor.collect.connecting import BROKEN, client
from sartor.collect.sitemaps import gunzipped
from sartor.collect.urls import normal, site
from sartor.extract import NotTaken, over

#: Hops of one address: RFC 9309 asks for five at least.
REDIRECTS = 5
#: Answers that may be others a moment later.
_PASSING = frozenset({429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})
#: Seconds before the second try, where the server says nothing; twice as long before each one after.
_FIRST_WAIT = 2.0


class Passing(NotTaken):
    """It failed now, and may not when it is tried at another time: nothing is settled."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `address` is where it came from in the end; names of headers are in lower case."""

    address: str
    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    robots: tuple[str, ...] = ()

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        for part in self.headers.get("content-type", "").split(";")[1:]:
            name, _, value = part.partition("=")
            if name.strip().lower() == "charset":
                return value.strip().strip("\"'")
        return ""


@dataclass(frozen=True, slots=True)
class Manners:
    """How to behave: seconds between two requests to a site, for one answer in all, for each part of it, and the
    longest wait that a server may ask for; how often to try again; hosts (with port) that may be private.
    """

    agent: str
    delay: float
    answer_seconds: float
    part_seconds: float
    longest_wait: float
    retries: int
    private: frozenset[tuple[str, int]] = frozenset()


#: Asked before each hop: raises NotTaken where it may not be.
Allowed = Callable[[str], None]
#: Asked when the headers of a good answer are there, before its body is read.
Wanted = Callable[[Reply], None]


@dataclass(slots=True)
class Fetcher:
    """Requests, one after the other. `delays`: what sites ask for beyond our own manners."""

    manners: Manners
    clock: Clock
    lookup: Lookup
    delays: dict[str, float] = field(default_factory=dict)
    _next: dict[str, float] = field(default_factory=dict)
    _client: Any = None

    def fetch(
        self,
        address: str,
        *,
        most: int,
        allowed: Allowed,
        wanted: Wanted = lambda reply: None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """The answer at an address, after redirects and second tries.

        Args:
            address: in its normal form.
            most: bytes that an answer may have, as sent and unpacked.
            allowed: asked before each hop.
            wanted: asked before a body is read.
            headers: sent beside the usual ones.

        Raises:
            NotTaken: a hop is refused, or the answer is not wanted or too large.
            Passing: the server cannot be reached, or fails.
        """
        for _ in range(REDIRECTS + 1):
            allowed(address)
            reply = self._patiently(address, most, wanted, headers or {})
            if reply.status not in _MOVED:
                return reply
            if "location" not in reply.headers:
                raise NotTaken("status", f"{reply.status} without saying where to")
            address = normal(reply.headers["location"], address)
        raise NotTaken("redirects", f"more than {REDIRECTS} redirects, the last to {address}")

    def close(self) -> None:
        """End all connections."""
        if self._client is not None:
            self._client.close()

    def _patiently(self, address: str, most: int, wanted: Wanted, headers: Mapping[str, str]) -> Reply:
        wait = _FIRST_WAIT
        for tries_left in range(self.manners.retries, -1, -1):
            try:
                self._take_turn(site(address))
                reply = self._once(address, most, wanted, headers)
            except BROKEN as error:
                said = str(error).strip() or type(error).__name__
                problem = Passing("unreachable", f"{said[:200]} (tried {self.manners.retries + 1} times)")
                asked = 0.0
            else:
                if reply.status not in _PASSING:
                    return reply
                asked = retry_after(reply.headers.get("retry-after", ""), self.clock.now().timestamp())
                problem = Passing("status", f"the server answered {reply.status}")
                if asked > self.manners.longest_wait:
                    limit = f"longest_wait is {self.manners.longest_wait:,.0f}"
                    raise Passing("status", f"{reply.status}: it asks to wait {asked:,.0f} s, and the limit {limit}")
            if not tries_left:
                raise problem
            self.clock.sleep(max(asked, wait))
            wait *= 2
        raise AssertionError("unreachable")

    def _take_turn(self, place: str) -> None:
        """Wait until this site may be asked again."""
        now = self.clock.seconds()
        ready = self._next.get(place, now)
        if ready > now:
            self.clock.sleep(ready - now)
            now = ready
        self._next[place] = now + max(self.manners.delay, self.delays.get(place, 0.0))

    def _once(self, address: str, most: int, wanted: Wanted, headers: Mapping[str, str]) -> Reply:
        if self._client is None:
            seconds, agent = self.manners.part_seconds, self.manners.agent
            self._client = client(self._resolve, seconds=seconds, agent=agent)
        self._client.cookies.clear()
        until = self.clock.seconds() + self.manners.answer_seconds
        with self._client.stream("GET", address, headers=dict(headers)) as answer:
            reply = Reply(
                address,
                answer.status_code,
                {name.lower(): value for name, value in answer.headers.items()},
                robots=tuple(answer.headers.get_list("x-robots-tag")),
            )
            if reply.status != 200:
                return reply
            wanted(reply)
            content = self._body(answer, most, until)
        return Reply(address, reply.status, reply.headers, _unpacked(reply, content, most), reply.robots)

    def _body(self, answer: Any, most: int, until: float) -> bytes:
        said = answer.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > most:
            raise over("page_bytes", int(said), most, "bytes announced")
        content = bytearray()
        for part in answer.iter_raw():
            content += part
            if len(content) > most:
                raise over("page_bytes", len(content), most, "bytes or more")
            if self.clock.seconds() > until:
                raise NotTaken("answer_seconds", f"not whole after {self.manners.answer_seconds:,.0f} s")
        return bytes(content)

    def _resolve(self, host: str, port: int) -> list[str]:
        try:
            return resolved(host, port, private=(host, port) in self.manners.private, lookup=self.lookup)
        except NotTaken as error:
            if error.reason == "unknown_host":  # names are sometimes not to be had for a while
                raise Passing(error.reason, error.detail) from error
            raise


def _unpacked(reply: Reply, content: bytes, most: int) -> bytes:
    coding = reply.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return content
    if coding not in ("gzip", "x-gzip"):
        raise NotTaken("content_encoding", f"packed as {coding[:40]}, which was not asked for")
    return gunzipped(content, "page_bytes", most)
