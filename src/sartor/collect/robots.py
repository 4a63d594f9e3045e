"""What a site allows: its robots.txt by RFC 9309, and what pages and headers say of themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sartor.data.extra import needs
from sartor.extract import NotTaken

#: The name that a robots.txt may call us by.
CALLED = "sartor"
#: As much of a robots.txt is read as RFC 9309 asks for at least, in bytes.
ROBOTS_BYTES = 512 * 1024

#: Words that a page has for machines: it wants to be in no index; its links shall not be followed; its owner reserves
#: text and data mining (TDM Reservation Protocol, Art. 4 of the EU's directive 2019/790), or use by AI.
_NO_INDEX = frozenset({"noindex", "none"})
_NO_FOLLOW = frozenset({"nofollow", "none"})
_RESERVED = frozenset({"noai", "tdm-reservation"})


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one site. `closed` says why nothing at all may be fetched."""

    rules: Any = None
    closed: tuple[str, str] | None = None

    def require(self, address: str) -> None:
        """Go on only where it is allowed.

        Raises:
            NotTaken: `robots`, or `robots_unreachable`.
        """
        if self.closed:
            raise NotTaken(*self.closed)
        if self.rules is not None and not self.rules.can_fetch(address, CALLED):
            raise NotTaken("robots", "the site's robots.txt keeps it from us")

    @property
    def delay(self) -> float:
        """Seconds between two requests that the site asks for."""
        if self.rules is None:
            return 0.0
        rate = self.rules.request_rate(CALLED)
        asked = (self.rules.crawl_delay(CALLED) or 0.0, rate.seconds / rate.requests if rate and rate.requests else 0.0)
        return max((seconds for seconds in asked if seconds > 0), default=0.0)  # "nan" is no number of seconds

    @property
    def sitemaps(self) -> tuple[str, ...]:
        """The sitemaps that the site names."""
        return () if self.rules is None else tuple(self.rules.sitemaps)


def rules_of(status: int, content: bytes) -> Rules:
    """The rules in an answer to the request for robots.txt. No such file: everything is allowed. A server that fails or
    is busy: nothing is, as RFC 9309 says, for we cannot know.
    """
    if status == 429 or status >= 500:
        return unreachable(f"robots.txt cannot be read: status {status}")
    if status >= 400:
        return Rules()
    return Rules(needs("protego").Protego.parse(content[:ROBOTS_BYTES].decode("utf-8", "replace")))


def unreachable(detail: str) -> Rules:
    """Nothing may be fetched as long as the rules cannot be read."""
    return Rules(closed=("robots_unreachable", detail))


def words_of(headers: Iterable[str], reserved: str) -> frozenset[str]:
    """The words of X-Robots-Tag headers that are for everybody or for us, and of the header tdm-reservation."""
    words = {"tdm-reservation"} if reserved.strip() == "1" else set()
    for header in headers:
        name, colon, rest = header.partition(":")
        agent = name.strip().lower() if colon and "," not in name else ""
        if agent in ("", CALLED):
            words |= {word.strip().lower() for word in (rest if agent else header).split(",")}
    return frozenset(words)


def require_index(words: frozenset[str]) -> None:
    """Take a page only if it does not object.

    Raises:
        NotTaken: `noindex` or `reserved`.
    """
    if words & _NO_INDEX:
        raise NotTaken("noindex", "the page asks not to be taken")
    if words & _RESERVED:
        raise NotTaken("reserved", f"its owner reserves this use: {', '.join(sorted(words & _RESERVED))}")


def may_follow(words: frozenset[str]) -> bool:
    """Whether the links of a page may be followed."""
    return not words & _NO_FOLLOW
