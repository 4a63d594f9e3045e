"""IP addresses, version 4 and 6, that lead to somebody: those of documentation, loopback and private nets stay."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator, Sequence

from sartor.data.finding.identifiers.draw import Draw

SUMMARY = "IP addresses that are reachable from everywhere, version 4 and 6"

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#: What follows the first mark of an address, with the number before it looked back at: the search jumps from mark to
#: mark, which is five times as fast as from digit to digit.
_V4 = re.compile(rf"\.(?<=[0-9]\.){_OCTET}\.{_OCTET}\.{_OCTET}(?![\w-]|\.\w)")
_V6 = re.compile(r":(?<=[23][0-9a-fA-F]{3}:)(?<![\w:.].{5})[0-9a-fA-F:]{1,34}(?![\w:])")
_FIRST = re.compile(r"(?<![\w.-])[0-9]{1,3}$")
#: Four small numbers with dots are a version or a section more often than an address, unless something says so.
_VERSIONISH = 20
_VERSION_BEFORE = re.compile(
    r"(?:\bv|version|release|build|section|§|firmware|chapter|\bver\.?|revision)[ :=]{0,2}$", re.I
)
_ADDRESS_BEFORE = re.compile(r"(?:\[|\bips?\b.{0,12}|address\w*.{0,6}|\bhost\w*.{0,4}|://|server.{0,4}|@)$", re.I)
_LOOK_BACK = 24


def find(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    for match in _V4.finditer(text):
        first = _FIRST.search(text, max(0, match.start() - 4), match.start())
        if first is None:
            continue
        start, end = first.start(), match.end()
        if _is_address(text[start:end]) and not _is_version(text, start, text[start:end]):
            yield start, end
    for match in _V6.finditer(text):
        start, end = match.start() - 4, match.end()
        if match[0][-1] == ":" and match[0][-2:] != "::":  # of the sentence around it
            end -= 1
        if _is_address(text[start:end]):
            yield start, end


def canonical(value: str) -> str:
    return ipaddress.ip_address(value).compressed


def stand_in(value: str, draw: Draw) -> str:
    """Version 4 out of the class that was never given to anybody (RFC 1112), version 6 out of that for documentation
    (RFC 3849): no stand-in is somebody's address, or is found again."""
    if ":" in value:
        groups = [f"{draw.below(2**16):x}" for _ in range(6)]
        return ":".join(["2001", "db8", *groups])
    return ".".join([str(240 + draw.below(15)), *(str(draw.below(256)) for _ in range(3))])


@functools.lru_cache(maxsize=4096)  # the same few stand in most lines of a log
def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
        return address.is_global and not address.is_multicast
    except ValueError:
        return False


def _is_version(text: str, start: int, value: str) -> bool:
    before = text[max(0, start - _LOOK_BACK) : start].rpartition("\n")[2]
    if _VERSION_BEFORE.search(before):
        return True
    small = all(int(part) < _VERSIONISH for part in value.split("."))
    return small and not _ADDRESS_BEFORE.search(before)
