"""E-mail addresses, and what looks like them."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers import e_mail

from .identifiers import found, stand_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe@acme-corp.com.", ["jane.doe@acme-corp.com"]),
        ("<bob@x.co.uk>, 'eve@y.org'", ["bob@x.co.uk", "eve@y.org"]),
        ("mailto:a+b@c.de?subject=x", ["a+b@c.de"]),
        ("https://x.net/leave?to=joe@y.org&id=3", ["joe@y.org"]),
        ("bounce-17-jane=mail.org@lists.net", ["bounce-17-jane=mail.org@lists.net"]),
        ("JM@NETNOTEINC.COM", ["JM@NETNOTEINC.COM"]),
        ("grüße an hans@bücher.de!", ["hans@bücher.de"]),
        ("jane (at) example-shop (dot) org", ["jane (at) example-shop (dot) org"]),
        ("jane [at] mail.net", ["jane [at] mail.net"]),
        ("<cwg-dated-1030460647.7351a3@DeepEddy.Com>", ["cwg-dated-1030460647.7351a3@DeepEddy.Com"]),
    ],
)
def test_addresses_are_found(text: str, expected: list[str]) -> None:
    assert found(e_mail, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Message-ID: <200208221234.ABC@mail.host.net>",
        "In-Reply-To: <1029944441.398.TMDA@deepeddy.vircio.com>\nReferences: <a1b2c3@x.net>\n\t<9627.10299@munnari.oz>",
        "> In message <5378.1027548783@dime.box.net>, Hal wrote",
        "src=cid:168390-22002112122364653@designer.net",
        "logo@2x.png, lodash@4.17.21, @handle, a@b, me@localhost, x@example.com, root@mail.test",
        "git@github.com:org/repo.git",
        "http://MdgM6ImtdB@rapid-mortgage.com/remove",
        "meet @07:42, 3 @ 4.50, a..b@c.de",
    ],
)
def test_what_looks_like_one_is_left_alone(text: str) -> None:
    assert found(e_mail, text) == []


def test_a_stand_in_belongs_to_nobody_and_is_not_found_again() -> None:
    made = stand_in(e_mail, "Jane.Doe7@acme.com")
    local, _, domain = made.partition("@")
    assert domain.endswith(".example")
    assert local[4] == "." and local[0].isupper() and local[-1].isdigit()
    assert found(e_mail, made) == []


def test_all_spellings_of_an_address_have_one_stand_in() -> None:
    assert e_mail.canonical("Jane (at) Mail (dot) NET") == e_mail.canonical("jane@mail.net") == "jane@mail.net"
    assert stand_in(e_mail, "JM@mail.net").lower() == stand_in(e_mail, "jm@MAIL.NET").lower()
