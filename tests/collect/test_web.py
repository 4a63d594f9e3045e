"""A crawl: obedient, within bounds, the same twice, and whole after a kill."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from sartor.collect import Clock, Trip
from sartor.collect.fetching import Fetcher, Reply
from sartor.collect.gather import gather, origin_of
from sartor.collect.journal import Journal
from sartor.collect.web import Config, Crawl
from sartor.data.folder import DataFolder
from sartor.errors import DataError
from sartor.types import Document, LedgerEntry

from .site import FakeTime, Page, Site, html, serving

CRAWLER = Path(__file__).with_name("crawler.py")
SECONDS = 20.0  # how long a test waits for something that must happen


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "crawled"


def crawl(site: Site, target: Path, path: str = "/", clock: Clock | None = None, **options: Any) -> DataFolder:
    given = {"allow_private": True, "delay": 0.0, "retries": 0} | options
    return gather([origin_of(site.url(path), **given)], target, clock=clock or FakeTime().clock())


def paths(folder: DataFolder, site: Site) -> list[str]:
    return [document.place.removeprefix(site.address) for document in folder.documents()]


def reasons(folder: DataFolder, site: Site) -> dict[str, str]:
    return {entry.file.removeprefix(site.address): entry.reason for entry in folder.ledger()}


def test_pages_are_found_nearest_first_with_all_that_they_say(target: Path) -> None:
    licence = '<link rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">'
    headers = {"ETag": '"x1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    pages = {
        "/": Page(html("Start", "/b", "a", "mailto:x@y.z", "#top", "javascript:void(0)"), headers=headers),
        "/a": Page(html("Aa", "/deep", head=licence)),
        "/b": Page(html("Bb", "/")),
        "/deep": Page("plain words", kind="text/plain"),
    }
    with serving(pages) as site:
        folder = crawl(site, target)
        assert paths(folder, site) == ["/", "/b", "/a", "/deep"]
        documents = list(folder.documents())
    assert documents[0].about == {
        "status": 200,
        "etag": '"x1"',
        "last_modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        "language": "en",
    }
    assert (documents[0].title, documents[0].text, documents[0].time) == (
        "Start",
        "Start is a page.",
        "2026-01-02T03:04:05+00:00",
    )
    assert documents[2].licence == "CC-BY-SA-4.0" and documents[3].media_type == "text/plain"
    assert not list(folder.ledger())[3:] and "CC-BY-SA-4.0 (1)" in (target / "card.md").read_text()
    assert not target.with_name(".crawled.collecting").exists()


def test_robots_are_asked_first_and_obeyed(target: Path) -> None:
    rules = "User-agent: *\nDisallow: /all\n\nUser-agent: sartor\nDisallow: /private/\nAllow: /private/but\n"
    pages = {
        "/robots.txt": Page(rules, kind="text/plain"),
        "/": Page(html("Start", "/private/x", "/private/but", "/all", "/into")),
        "/private/but": Page(html("But")),
        "/all": Page(html("All")),
        "/into": Page(status=302, headers={"Location": "/private/y"}),
    }
    with serving(pages) as site:
        folder = crawl(site, target)
        assert site.asked[0] == "/robots.txt" and site.counted("/robots.txt") == 1
        assert not any(path.startswith(("/private/x", "/private/y")) for path in site.asked)
        assert paths(folder, site) == ["/", "/private/but", "/all"]
        assert reasons(folder, site) == {"/private/x": "robots", "/into": "robots"}


@pytest.mark.parametrize(
    ("robots", "reason"),
    [(Page(status=503), "robots_unreachable"), (Page(status=429), "robots_unreachable"), (Page(status=403), "")],
)
def test_rules_that_cannot_be_read_close_the_site_and_none_open_it(target: Path, robots: Page, reason: str) -> None:
    with serving({"/robots.txt": robots, "/": Page(html("Start"))}) as site:
        if reason:
            with pytest.raises(DataError, match=reason):
                crawl(site, target)
            assert set(site.asked) == {"/robots.txt"} and not target.exists()
        else:
            assert paths(crawl(site, target), site) == ["/"]


def test_requests_keep_the_sites_pace(target: Path) -> None:
    pages = {
        "/robots.txt": Page("User-agent: *\nCrawl-delay: 7\n", kind="text/plain"),
        "/": Page(html("Start", *"abc")),
        **{f"/{name}": Page(html(name)) for name in "abc"},
    }
    hours = FakeTime()
    with serving(pages) as site:
        crawl(site, target, clock=hours.clock(), delay=2.0)
        assert site.asked == ["/robots.txt", "/sitemap.xml", "/", "/a", "/b", "/c"]
    assert hours.waits == [2.0, 7.0, 7.0, 7.0, 7.0]  # its rule is known after the first request


def test_a_site_that_wants_an_hour_between_pages_is_left_alone(target: Path) -> None:
    rules = Page("User-agent: *\nCrawl-delay: 3600\n", kind="text/plain")
    with serving({"/robots.txt": rules, "/": Page(html("Start"))}) as site:
        with pytest.raises(DataError, match="longest_delay is 60"):
            crawl(site, target)
        assert site.asked == ["/robots.txt"]


@dataclass
class Hosts:
    """A fetcher of what hosts say, that remembers what delay was known when something was asked for."""

    pages: dict[str, str]
    delays: dict[str, float] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)

    def fetch(self, address: str, *, allowed: Callable[[str], None], **others: Any) -> Reply:
        allowed(address)
        self.known[address] = self.delays.get("example.org", 0.0)
        found = self.pages.get(address)
        return Reply(address, 404 if found is None else 200, {"content-type": "text/html"}, (found or "").encode())

    def close(self) -> None:
        pass


def test_the_longest_delay_that_is_obeyed_is_that_of_all_addresses_of_a_site(tmp_path: Path) -> None:
    plain, www, old = "https://example.org", "https://www.example.org", "http://www.example.org"
    pages = {
        f"{plain}/robots.txt": "User-agent: *\nCrawl-delay: 10\n",
        f"{old}/robots.txt": "User-agent: *\nCrawl-delay: 86400\n",
        f"{plain}/": html("Start", f"{www}/a", f"{old}/b", "/c"),
        **{f"{place}/{name}": html(name) for name in "abc" for place in (plain, www, old)},
    }
    hosts = Hosts(pages)
    trip = Trip(tmp_path, FakeTime().clock())
    crawl = Crawl(Config(place=plain), trip, f"{plain}/", Journal(tmp_path / "journal"), cast("Fetcher", hosts))
    found = list(crawl.run())
    assert [page.place for page in found if isinstance(page, Document)] == [f"{plain}/", f"{www}/a", f"{plain}/c"]
    assert {entry.file: entry.reason for entry in found if isinstance(entry, LedgerEntry)} == {
        f"{old}/b": "crawl_delay"
    }
    assert [hosts.known[address] for address in (f"{plain}/", f"{www}/a", f"{plain}/c")] == [10.0] * 3


def test_retry_after_is_kept_and_has_a_limit(target: Path) -> None:
    def busy(before: int, headers: dict[str, str]) -> Page:
        return Page(status=503, headers={"Retry-After": "40"}) if before < 2 else Page(html("Busy"))

    long = Page(status=429, headers={"Retry-After": "100000"})
    pages = {"/": Page(html("Start", "/busy", "/long", "/broken")), "/busy": busy, "/long": long}
    hours = FakeTime()
    with serving(pages | {"/broken": Page(status=500)}) as site:
        folder = crawl(site, target, clock=hours.clock(), retries=2)
        assert paths(folder, site) == ["/", "/busy"] and site.counted("/long") == 1 and site.counted("/broken") == 3
        assert reasons(folder, site) == {"/long": "status", "/broken": "status"}
    assert hours.waits == [40.0, 40.0, 2.0, 4.0]


def test_what_pages_and_headers_ask_for(target: Path) -> None:
    meta = '<meta name="robots" content="{}">'
    pages = {
        "/": Page(html("Start", *"abcdefg")),
        "/a": Page(html("Aa", "/x", head=meta.format("NOINDEX"))),
        "/b": Page(html("Bb", "/y", head=meta.format("nofollow"))),
        "/c": Page(html("Cc"), headers={"X-Robots-Tag": "otherbot: noindex"}),
        "/d": Page(html("Dd"), headers={"X-Robots-Tag": "sartor: none"}),
        "/e": Page(html("Ee"), headers={"tdm-reservation": "1"}),
        "/f": Page(html("Ff", head='<meta name="robots" content="index, noai">')),
        "/g": Page("<p>Words enough.</p><a rel=nofollow href=/z>z</a>"),
        **{f"/{name}": Page(html(name)) for name in "xyz"},
    }
    with serving(pages) as site:
        folder = crawl(site, target)
        assert paths(folder, site) == ["/", "/b", "/c", "/g", "/x"]
        found = reasons(folder, site)
    assert {path: found[path] for path in ("/a", "/d", "/e", "/f")} == {
        "/a": "noindex",
        "/d": "noindex",
        "/e": "reserved",
        "/f": "reserved",
    }


def test_one_text_under_many_addresses_is_taken_once(target: Path) -> None:
    canonical = '<link rel="canonical" href="/a">'
    pages = {
        "/": Page(html("Start", "/a?print=1", "/a", "/moved", "/copy")),
        "/a?print=1": Page(html("Ab", head=canonical)),
        "/a": Page(html("Aa", head=canonical)),
        "/moved": Page(status=301, headers={"Location": "/new#part"}),
        "/new": Page(html("New", "/moved")),
        "/copy": Page(html("New", "/moved")),
    }
    with serving(pages) as site:
        folder = crawl(site, target)
        assert paths(folder, site) == ["/", "/a?print=1", "/new"]
        assert reasons(folder, site) == {"/a": "canonical", "/copy": "same_content"}
        moved = next(document for document in folder.documents() if document.place.endswith("/new"))
    assert moved.about["redirected_from"].endswith("/moved")


def test_bounds_are_named(target: Path) -> None:
    pages = {
        "/": Page(html("Start", "/big", "/said", "/bomb", "/br", "/pic", "/gone", "/loop", "/one", "/no")),
        "/big": Page(b"x" * 70_000),
        "/said": Page(b"x", headers={"Content-Length": "999999"}),
        "/bomb": Page(gzip.compress(b"0" * 5_000_000), headers={"Content-Encoding": "gzip"}),
        "/br": Page(b"x", headers={"Content-Encoding": "br"}),
        "/pic": Page(b"x", kind="image/png"),
        "/loop": Page(status=302, headers={"Location": "/loop"}),
        "/one": Page(html("One", "/two")),
        "/two": Page(html("Two")),
        "/no": Page(html("No")),
    }
    with serving(pages) as site:
        folder = crawl(site, target, page_bytes=65_536, max_depth=1, exclude=("/no",))
        assert paths(folder, site) == ["/", "/one"]
        assert reasons(folder, site) == {
            "/big": "page_bytes",
            "/said": "page_bytes",
            "/bomb": "page_bytes",
            "/br": "content_encoding",
            "/pic": "media_type",
            "/gone": "status",
            "/loop": "redirects",
            "/two": "max_depth",
            "/no": "excluded",
        }
        assert all(entry.file and entry.detail for entry in folder.ledger())
        folder = crawl(site, target, max_pages=2)
        assert list(reasons(folder, site).values()).count("max_pages") == 8


def test_sitemaps_packed_and_nested(target: Path) -> None:
    def listed(*addresses: str, tag: str = "urlset") -> bytes:
        inner = "".join(f"<url><loc> {address} </loc></url>" for address in addresses)
        return f"<?xml version='1.0'?><{tag}>{inner}</{tag}>".encode()

    with serving({}) as site:
        index = listed(
            site.url("/s1.xml.gz"), site.url("/bomb.gz"), "https://elsewhere.example/s.xml", tag="sitemapindex"
        )
        first = gzip.compress(listed(site.url("/a?x=1&amp;y=2"), "https://elsewhere.example/p", "ftp://x/"))
        site.pages |= {
            "/robots.txt": Page(f"Sitemap: {site.url('/index.xml')}", kind="text/plain"),
            "/index.xml": Page(index, kind="application/xml"),
            "/s1.xml.gz": Page(first, kind="application/gzip"),
            "/bomb.gz": Page(gzip.compress(b" " * 60_000_000), kind="application/gzip"),
            "/": Page(html("Start")),
            "/a?x=1&y=2": Page(html("Listed")),
        }
        folder = crawl(site, target)
        assert paths(folder, site) == ["/", "/a?x=1&y=2"]
        assert reasons(folder, site) == {
            "https://elsewhere.example/p": "other_site",
            "https://elsewhere.example/s.xml": "redirected_away",
            "ftp://x/": "address",
            "/bomb.gz": "sitemap_bytes",
        }


def test_what_has_not_changed_is_not_sent_again_and_keeps_its_time(target: Path) -> None:
    def tagged(before: int, headers: dict[str, str]) -> Page:
        if headers.get("if-none-match") == '"v1"':
            return Page(status=304)
        return Page(html("Start", "/b", "//elsewhere.example/"), headers={"ETag": '"v1"'})

    hours = FakeTime()
    with serving({"/": tagged, "/b": Page(html("Bb"))}) as site:
        first = crawl(site, target, clock=hours.clock())
        before = [
            (target / name).read_bytes() for name in ("documents.jsonl", "ledger.jsonl", "places.jsonl", "card.md")
        ]
        digest = first.digest
        hours.seconds += 86400
        second = crawl(site, target, clock=hours.clock())
        after = [
            (target / name).read_bytes() for name in ("documents.jsonl", "ledger.jsonl", "places.jsonl", "card.md")
        ]
        assert before == after and digest == second.digest and site.counted("/") == 2
        site.pages["/b"] = Page(html("Other"))
        times = [document.time for document in crawl(site, target, clock=hours.clock()).documents()]
    assert times == ["2026-01-02T03:04:05+00:00", "2026-01-03T03:04:05+00:00"]


@pytest.fixture
def slow_site() -> Iterator[Site]:
    """Fifteen pages; from the eighth on each waits until it is let go."""

    def page(number: int) -> Page:
        return Page(html(f"Page {number:02}", f"/{number + 1:02}", "/missing"))

    with serving({f"/{number:02}": page(number) for number in range(15)}) as site:
        yield site


def test_a_killed_crawl_goes_on_where_it_stopped(slow_site: Site, target: Path) -> None:
    pages = dict(slow_site.pages)
    reached: list[float] = []

    def stalls(before: int, headers: dict[str, str]) -> Page:
        if not before:
            reached.append(time.monotonic())
            time.sleep(SECONDS)
        return pages["/08"]  # type: ignore[return-value]

    slow_site.pages["/08"] = stalls
    command = [sys.executable, str(CRAWLER), slow_site.url("/00"), str(target)]
    crawler = subprocess.Popen(command)
    deadline = time.monotonic() + SECONDS
    while not reached:
        assert time.monotonic() < deadline and crawler.poll() is None
        time.sleep(0.01)
    crawler.kill()
    crawler.wait()
    assert not target.exists()
    finished = [f"/{number:02}" for number in range(8)]
    assert all(slow_site.counted(path) == 1 for path in finished)
    folder = crawl(slow_site, target, "/00", max_depth=20)
    assert paths(folder, slow_site) == [f"/{number:02}" for number in range(15)]
    assert all(slow_site.counted(path) == 1 for path in [*finished, "/missing"]) and slow_site.counted("/08") == 2
    assert reasons(folder, slow_site) == {"/missing": "status", "/15": "status"}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_crawl_killed_at_any_write_loses_and_doubles_nothing(slow_site: Site, target: Path) -> None:
    """Seven operations are the journal's lines of the first pages, later ones the folder's files and its renaming."""
    command = [sys.executable, str(CRAWLER), slow_site.url("/00"), str(target)]
    for operation in (4, 9, 14):
        environment = {**os.environ, "SARTOR_FAILPOINT": f"{operation}:kill"}
        assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
        assert not target.exists()
    subprocess.run(command, check=True)
    folder = DataFolder(target)
    assert paths(folder, slow_site) == [f"/{number:02}" for number in range(15)]
    # robots.txt and the sitemap four times, each page once, and once more what was under way at each of three kills
    assert len(slow_site.asked) <= 4 * 2 + 17 + 3
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_an_address_that_is_none_is_the_users_mistake(target: Path) -> None:
    with pytest.raises(DataError, match="cannot crawl http://a b/"):
        gather([origin_of("http://a b/")], target)
    with pytest.raises(DataError, match="private_address"), serving({"/": Page(html("Start"))}) as site:
        crawl(site, target, allow_private=False)
    assert site.asked == []


def test_who_we_are_is_said(target: Path) -> None:
    with serving({"/": Page(html("Start"))}) as site:
        crawl(site, target, contact="ops@example.org")
        assert all(headers["user-agent"].endswith("(+ops@example.org)") for headers in site.headers)
        assert all(headers["user-agent"].startswith("sartor/") for headers in site.headers)
        assert not any("cookie" in headers for headers in site.headers)


def test_a_server_that_stalls_or_hangs_up_is_tried_again_and_then_left(target: Path) -> None:
    def stalls(before: int, headers: dict[str, str]) -> Page:
        time.sleep(0.5)
        return Page(html("Late"))

    torn = Page(b"half", headers={"Content-Length": "5000"})
    with serving({"/": Page(html("Start", "/late", "/torn")), "/late": stalls, "/torn": torn}) as site:
        folder = crawl(site, target, retries=1, part_seconds=0.1)
        assert reasons(folder, site) == {"/late": "unreachable", "/torn": "unreachable"}
        assert site.counted("/late") == 2 and site.counted("/torn") == 2


def test_an_answer_that_takes_for_ever_has_a_limit(target: Path) -> None:
    hours = FakeTime()
    ticking = Clock(hours.clock().now, lambda: hours.sleep(50) or hours.seconds, hours.sleep)  # type: ignore[func-returns-value]
    with serving({"/": Page("x" * 200_000)}) as site, pytest.raises(DataError, match="answer_seconds"):
        crawl(site, target, clock=ticking, answer_seconds=60.0)


def test_what_failed_for_a_while_is_asked_again_and_what_is_settled_is_not(tmp_path: Path) -> None:
    def recovers(before: int, headers: dict[str, str]) -> Page:
        return Page(html("Well again")) if before else Page(status=500)

    with serving({"/": Page(html("Start", "/ill", "/gone")), "/ill": recovers}) as site:
        config = Config(place=site.url(), allow_private=True, delay=0.0, retries=0)
        for expected in (1, 2):
            found = list(Crawl.of(config, Trip(tmp_path, FakeTime().clock())).run())
            assert sum(isinstance(member, Document) for member in found) == expected
        assert (site.counted("/"), site.counted("/ill"), site.counted("/gone")) == (1, 2, 1)


def test_only_what_is_under_a_path_and_on_named_hosts(target: Path) -> None:
    with serving({"/other": Page(html("Other"))}) as other:
        links = ("/docs/b", "/blog", other.url("/other"))
        pages = {"/docs/a": Page(html("Aa", *links)), "/docs/b": Page(html("Bb")), "/blog": Page(html("Blog"))}
        with serving(pages) as site:
            folder = crawl(site, target, "/docs/a", under="/docs/")
            assert paths(folder, site) == ["/docs/a", "/docs/b"]
            assert reasons(folder, site) == {"/blog": "excluded", other.url("/other"): "other_site"}
            folder = crawl(site, target, "/docs/a", hosts=(other.address.removeprefix("http://"),))
            assert (
                reasons(folder, site)[other.url("/other")] == "private_address"
            )  # only where it begins may be private
