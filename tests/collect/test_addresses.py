"""No crawler reaches a machine that is not public, whatever is written, looked up or redirected to."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from typing import Any

import pytest

from sartor.collect import Clock, Trip
from sartor.collect.addresses import kind_of, resolved
from sartor.collect.gather import gather, origin_of
from sartor.collect.web import Config, Crawl
from sartor.errors import DataError
from sartor.extract import NotTaken
from sartor.types import Document

from .site import FakeTime, Page, html, serving

#: Ways to write this machine, its neighbours and the address that clouds give secrets at; PORT is where a canary sits.
PAYLOADS = [
    "http://127.0.0.1:PORT/",
    "http://127.1:PORT/",
    "http://2130706433:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://127.0.0.0x1:PORT/",
    "http://017700000001:PORT/",
    "http://0:PORT/",
    "http://0.0.0.0:PORT/",
    "http://localhost:PORT/",
    "http://LOCALHOST.:PORT/",
    "http://[::1]:PORT/",
    "http://[::]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[64:ff9b::7f00:1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[fe80::1%25lo]:PORT/",
    "http://[fe80::1]:PORT/",
    "http://[fc00::1]:PORT/",
    "http://[ff02::1]:PORT/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://192.0.0.8/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://user@127.0.0.1:PORT/",
    "http://example.org@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@example.org/",
    "http://example.org\\@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT#@example.org/",
    "http://①②⑦.0.0.1:PORT/",
    "http://127。0。0。1:PORT/",
    "http://exa mple.org/",
    "http://example.org:0/",
    "http://example.org:99999/",
    "http:///127.0.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
]


class Lookups:
    """Looks names up as the machine does, but for names that are not this machine's: those have no address."""

    def __call__(self, host: str, port: int, **options: Any) -> Any:
        if host == "localhost" or host.replace(".", "").isdigit() or ":" in host:
            return socket.getaddrinfo(host, port, **options)
        raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_private_is_asked_for_first_by_link_or_by_redirect(payload: str, tmp_path: Path) -> None:
    with serving({"/": Page(html("The canary"))}) as canary:
        written = payload.replace("PORT", canary.address.rpartition(":")[2])
        with pytest.raises(DataError):
            trip = Trip(tmp_path, FakeTime().clock())
            found = list(Crawl.of(Config(place=written, retries=0), trip, Lookups()).run())
            assert not any(isinstance(member, Document) for member in found)
            raise DataError("all refused", hint="")
        pages = {"/": Page(html("Start", written, "/to")), "/to": Page(status=302, headers={"Location": written})}
        with serving(pages) as site:
            given = Config(place=site.url(), allow_private=True, delay=0.0, retries=0)
            crawl = Crawl.of(given, Trip(tmp_path / "b", FakeTime().clock()), Lookups())
            places = [member.place for member in crawl.run() if isinstance(member, Document)]
        assert places == [site.url()]
        assert canary.asked == []


def test_robots_that_lead_to_this_machine_are_not_followed(tmp_path: Path) -> None:
    with serving({"/robots.txt": Page("")}) as canary:
        moved = Page(status=301, headers={"Location": canary.url("/robots.txt")})
        with serving({"/robots.txt": moved, "/": Page(html("Start"))}) as site:
            origin = origin_of(site.url(), allow_private=True, delay=0.0, retries=0)
            with pytest.raises(DataError, match="private_address"):
                gather([origin], tmp_path / "out")
            assert canary.asked == [] and site.asked == ["/robots.txt"]


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert kind_of(address) == ""


def test_one_private_address_among_public_ones_is_enough() -> None:
    def both(host: str, port: int, **options: Any) -> Any:
        return [(2, 1, 6, "", (address, port)) for address in ("93.184.216.34", "10.0.0.1")]

    with pytest.raises(NotTaken, match=r"10\.0\.0\.1, which is private"):
        resolved("example.org", 80, private=False, lookup=both)


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(tmp_path: Path) -> None:
    """The name exists nowhere: whoever looked it up again, as an attacker hopes, would get nowhere."""
    with serving({"/": Page(html("Start", "/a")), "/a": Page(html("Aa"))}) as site:
        port = int(site.address.rpartition(":")[2])
        asked: list[str] = []

        def lookup(host: str, port: int, **options: Any) -> Any:
            asked.append(host)
            return [(2, 1, 6, "", ("127.0.0.1", port))]

        given = Config(place=f"http://rebound.example:{port}/", allow_private=True, delay=0.0, retries=0)
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        trip = Trip(tmp_path, Clock(lambda: now, lambda: 0.0, lambda seconds: None))
        places = [found.place for found in Crawl.of(given, trip, lookup).run() if isinstance(found, Document)]
        assert places == [f"http://rebound.example:{port}/", f"http://rebound.example:{port}/a"]
        assert set(asked) == {"rebound.example"}
        assert {headers["host"] for headers in site.headers} == {f"rebound.example:{port}"}
