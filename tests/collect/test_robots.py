"""Rules of sites as strangers write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.collect.robots import may_follow, require_index, rules_of, words_of
from sartor.extract import NotTaken

DELAYS = [f"Crawl-delay: {seconds}" for seconds in ("3", "nan", "-1", "inf", "x")]
PATHS = ["User-agent: *", "User-agent: sartor", "Disallow: /", "Allow: /a", "Disallow: /*?$", "Sitemap: x"]
LINES = st.sampled_from([*DELAYS, *PATHS, "Request-rate: 0/5", "Request-rate: 1/10s", "\0", "é:"])


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, max_size=12).map("\n".join), st.binary(max_size=20))
def test_any_file_is_rules(text: str, more: bytes) -> None:
    rules = rules_of(200, text.encode() + b"\n" + more)
    assert rules.delay >= 0
    assert isinstance(rules.sitemaps, tuple)
    try:
        rules.require("http://example.org/a")
    except NotTaken as error:
        assert error.reason == "robots"


def test_the_rules_for_us_come_before_those_for_all() -> None:
    rules = rules_of(200, b"User-agent: *\nDisallow: /\n\nUser-agent: Sartor\nDisallow: /a\nRequest-rate: 1/10\n")
    rules.require("http://example.org/b")
    assert rules.delay == 10.0


@pytest.mark.parametrize(
    ("status", "reason"), [(404, ""), (401, ""), (429, "robots_unreachable"), (500, "robots_unreachable")]
)
def test_status(status: int, reason: str) -> None:
    rules = rules_of(status, b"User-agent: *\nDisallow: /")
    if reason:
        with pytest.raises(NotTaken, match=reason):
            rules.require("http://example.org/")
    else:
        rules.require("http://example.org/")


@pytest.mark.parametrize(
    ("headers", "reserved", "words"),
    [
        (["noindex, NoFollow"], "", {"noindex", "nofollow"}),
        (["googlebot: noindex", "sartor: none"], "", {"none"}),
        (["unavailable_after: 25 Jun 2030"], "", set()),
        ([], " 1 ", {"tdm-reservation"}),
        ([], "0", set()),
    ],
)
def test_words_of_headers(headers: list[str], reserved: str, words: set[str]) -> None:
    assert words_of(headers, reserved) == words


def test_what_words_mean() -> None:
    require_index(frozenset({"nofollow", "index"}))
    assert may_follow(frozenset({"noindex"})) and not may_follow(frozenset({"none"}))
    for word, reason in (("none", "noindex"), ("noai", "reserved"), ("tdm-reservation", "reserved")):
        with pytest.raises(NotTaken, match=reason):
            require_index(frozenset({word}))
