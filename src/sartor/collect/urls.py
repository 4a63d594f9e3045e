"""Addresses of pages in one form, by one parser. What two parsers could read in two ways is refused."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from sartor.extract import NotTaken

#: Longest address: browsers and servers agree on about this many characters.
LONGEST = 2048
PORTS = {"http": 80, "https": 443}

#: What no address has: white space, control characters, and the slash that some read as a slash and others do not.
_STRANGE = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_DOTTED = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)")
#: A last label that old parsers take for a number: 0x7f, 2130706433, 0177.
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|\d+)")


def is_web(place: str) -> bool:
    """Is this written as the address of a page?"""
    return place.lower().startswith(("http://", "https://"))


def normal(address: str, base: str = "") -> str:
    """The address in its one form: absolute, the host in lower case, no fragment, no usual port.

    Args:
        address: as it is written.
        base: what a relative one starts from.

    Raises:
        NotTaken: `address` or `host`.
    """
    written = address.strip()
    if _STRANGE.search(written):
        raise NotTaken("address", f"white space, control characters or a backslash in {written[:200]!r}")
    try:
        parts = urlsplit(urljoin(base, written) if base else written)
        port = parts.port
    except ValueError as error:
        raise NotTaken("address", f"{written[:200]!r} is no address: {error}") from error
    if parts.scheme not in PORTS:
        raise NotTaken("address", f"of the kind {parts.scheme or 'unknown'}; read are http and https")
    if "@" in parts.netloc:
        raise NotTaken("address", "a name or password stands before the host")
    host = _host(parts)
    if port == 0:
        raise NotTaken("address", "the port is 0")
    place = host if port in (None, PORTS[parts.scheme]) else f"{host}:{port}"
    path = quote(_plain(parts.path or "/"), safe="/%:@!$&'()*+,;=-._~")
    query = f"?{quote(parts.query, safe='%/:@!$&()*+,;=-._~?')}" if parts.query else ""
    made = f"{parts.scheme}://{place}{path}{query}"
    if len(made) > LONGEST:
        raise NotTaken("address", f"{len(made):,} characters, at most {LONGEST:,}")
    return made


def site(address: str) -> str:
    """What counts as one site: the host without www, and its port. An address is in its normal form."""
    parts = urlsplit(address)
    port = parts.port or PORTS[parts.scheme]
    host = (parts.hostname or "").removeprefix("www.")
    return host if port in PORTS.values() else f"{host}:{port}"


def origin(address: str) -> str:
    """Scheme, host and port: what a robots.txt is for."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def host_and_port(address: str) -> tuple[str, int]:
    """What a connection is made to."""
    parts = urlsplit(address)
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def path_of(address: str) -> str:
    """The path of an address."""
    return urlsplit(address).path


def _host(parts: SplitResult) -> str:
    """The host as one may connect to it.

    Raises:
        NotTaken: it is none, or a number in disguise.
    """
    host = (parts.hostname or "").rstrip(".")
    if ":" in host:
        return f"[{_six(host)}]"
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise NotTaken("host", f"{host[:100]!r} is no name of a host") from error
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]) and not _DOTTED.fullmatch(host):
        raise NotTaken("host", f"{host[:100]!r} is an address in disguise: write it as four decimal numbers")
    if len(host) > 253 or not all(len(label) < 64 and _LABEL.fullmatch(label) for label in labels):
        raise NotTaken("host", f"{host[:100]!r} is no name of a host")
    return host


def _six(host: str) -> str:
    try:
        return ipaddress.IPv6Address(host).compressed if "%" not in host else _refused(host)
    except ValueError:
        return _refused(host)


def _refused(host: str) -> str:
    raise NotTaken("host", f"{host[:100]!r} is no IPv6 address without a zone")


def _plain(path: str) -> str:
    """The path without dots."""
    kept: list[str] = []
    parts = path.split("/")
    for part in parts:
        if part == "..":
            if len(kept) > 1:
                kept.pop()
        elif part != ".":
            kept.append(part)
    if parts[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)
