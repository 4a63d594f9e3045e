"""Sitemaps of strangers: addresses however they are written, and nothing that keeps us for ever."""

from __future__ import annotations

import gzip

import pytest

from sartor.collect import sitemaps
from sartor.collect.sitemaps import addresses, gunzipped
from sartor.extract import NotTaken

PACKED = gzip.compress(b"text", mtime=0)  # without the time: it is part of the names of tests

MANY = 20_000  # what is worse than linear does not end at this size


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<loc>http://a.b/?x=1&amp;y</loc>", ["http://a.b/?x=1&y"]),
        ("<s:loc >\n http://a.b/ \n</s:loc>", ["http://a.b/"]),
        ("<loc><![CDATA[ http://a.b/?a=1&copy=2 ]]></loc>", ["http://a.b/?a=1&copy=2"]),
        ("<loc>\n<![CDATA[http://a.b/]]>\n</loc><loc>http://c.d/</loc>", ["http://a.b/", "http://c.d/"]),
        ("<loc>http://[::1]/</loc>", ["http://[::1]/"]),
        ("<loc> </loc><loc><![CDATA[ ]]></loc><loc></loc><loc><b>x</b></loc><location>x</location>", []),
    ],
)
def test_addresses_however_they_are_written(written: str, read: list[str]) -> None:
    assert addresses(f"<urlset>{written}</urlset>".encode()) == (read, False)
    assert addresses(f"<s:sitemapindex>{written}".encode()) == (read, True)


def test_plain_lines() -> None:
    assert addresses(b"\xef\xbb\xbfhttp://a.b/\r\n\n  http://c.d/ ") == (["http://a.b/", "http://c.d/"], False)


@pytest.mark.parametrize(
    "hostile",
    [
        "<loc>" + " " * MANY + "<",
        "<loc>" + " " * MANY + "x" + " " * MANY + "<",
        "<loc" + " " * MANY + "<",
        "<loc><![CDATA[" + " " * MANY + "]" * MANY,
        "<loc>" * MANY,
        "<" + "l" * MANY,
    ],
    ids=lambda hostile: hostile[:16],
)
def test_white_space_and_what_is_not_closed_are_read_once(hostile: str) -> None:
    found, is_index = addresses(hostile.encode())
    assert not is_index and set(found) <= {"x"}


def test_what_was_packed_in_many_members_is_one() -> None:
    packed = gzip.compress(b"a") + gzip.compress(b"") * 1000 + gzip.compress(b"b")
    assert gunzipped(packed, "page_bytes", 2) == b"ab"
    with pytest.raises(NotTaken, match="2 bytes or more, unpacked, and the limit page_bytes is 1"):
        gunzipped(packed, "page_bytes", 1)


@pytest.mark.parametrize(
    "packed",
    [PACKED[:-9], PACKED + b"more", b"text", PACKED[:-1] + b"x"],
)
def test_what_gzip_does_not_pack_is_damaged(packed: bytes) -> None:
    with pytest.raises(NotTaken, match="damaged"):
        gunzipped(packed, "page_bytes", 100)


def test_limits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    two = b"http://a.b/\nhttp://c.d/"
    for name, most in (("SITEMAP_BYTES", 10), ("SITEMAP_ADDRESSES", 1)):
        for content in (two, gzip.compress(two)):
            with monkeypatch.context() as changed:
                changed.setattr(sitemaps, name, most)
                with pytest.raises(NotTaken, match=f"the limit {name.lower()} is {most}"):
                    addresses(content)
