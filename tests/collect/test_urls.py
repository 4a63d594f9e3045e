"""Addresses have one form, and what could be read in two ways has none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.collect.urls import host_and_port, normal, origin, site
from sartor.extract import NotTaken


@pytest.mark.parametrize(
    ("address", "base", "expected"),
    [
        ("HTTP://Example.ORG:80/a/../b/./c#part", "", "http://example.org/b/c"),
        ("https://example.org:443", "", "https://example.org/"),
        ("https://example.org:8443?q=a b".replace(" ", "+"), "", "https://example.org:8443/?q=a+b"),
        ("../x?y=1&z=ü", "https://example.org/a/b/c", "https://example.org/a/x?y=1&z=%C3%BC"),
        ("//other.example/p", "https://example.org/", "https://other.example/p"),
        ("/a%20b/ü", "http://example.org/", "http://example.org/a%20b/%C3%BC"),
        ("http://Bücher.example/", "", "http://xn--bcher-kva.example/"),
        ("http://[2001:DB8::1]:8080/", "", "http://[2001:db8::1]:8080/"),
        ("  /a  ", "http://example.org/", "http://example.org/a"),
        ("../../..", "http://example.org/a/", "http://example.org/"),
    ],
)
def test_one_form(address: str, base: str, expected: str) -> None:
    assert normal(address, base) == expected == normal(expected)


NO_FORM = [
    "a",
    "ftp://x/",
    "http://",
    "http://u:p@x/",
    "http://x:0/",
    "http://x:a/",
    "http://-x/",
    "http://x..y/",
    "http://1.2.3/",
    "http://256.1.1.1/",
    "http://[::1%25lo]/",
    "http://[:::]/",
    "http://x.0x1/",
    "http://%31.example/",
    "http://a\\b/",
]
LONG = [f"http://x/{'a' * 3000}", f"http://{'a' * 64}.example/"]


@pytest.mark.parametrize("address", [*NO_FORM, *LONG, "", "http://a b/", "http://x/\ta"])
def test_what_has_no_form(address: str) -> None:
    with pytest.raises(NotTaken) as caught:
        normal(address)
    assert caught.value.reason in ("address", "host")


def test_sites_and_origins() -> None:
    assert site("https://www.example.org/a") == site("http://example.org/") == "example.org"
    assert site("http://example.org:8000/") == "example.org:8000" != site("http://example.org/")
    assert origin("https://example.org:8443/a?b") == "https://example.org:8443"
    assert host_and_port("https://example.org/") == ("example.org", 443)
    assert host_and_port("http://[::1]:99/") == ("::1", 99)


PARTS = st.sampled_from(
    ["http://", "https:", "//", "/", "..", ".", "@", "\\", "#", "?", ":", "[", "]", "%", "0x7f", "é"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PARTS, st.text(max_size=5)), max_size=12).map("".join))
def test_a_form_is_final(written: str) -> None:
    try:
        made = normal(written, "http://example.org/a/b")
    except NotTaken as error:
        assert error.reason in ("address", "host")
    else:
        assert normal(made) == made and "#" not in made and made.isascii()
