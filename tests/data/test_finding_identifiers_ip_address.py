"""IP addresses, and what looks like them."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers import ip_address

from .identifiers import found, stand_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from host [66.187.233.211] by", ["66.187.233.211"]),
        ("http://202.101.163.34:81/x", ["202.101.163.34"]),
        ("IP: 4.2.2.2.", ["4.2.2.2"]),
        ("a 81.9.8.6 b", ["81.9.8.6"]),
        ("at 2a00:1450:4001:81b::200e!", ["2a00:1450:4001:81b::200e"]),
        ("2606:4700:0:0:0:0:0:1111", ["2606:4700:0:0:0:0:0:1111"]),
    ],
)
def test_addresses_are_found(text: str, expected: list[str]) -> None:
    assert found(ip_address, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1 224.0.0.1 10.1.2.3 172.16.52.254 0.0.0.0 255.255.255.0 203.0.113.9 2001:db8::1 ::1 fe80::1",
        "version 66.187.233.211",
        "v1.2.3.4",
        "section 3.2.1.4",
        "8.11.6/8.11.6",
        "5.50.4134.600",
        "1.2.3.4.5",
        "10.0.19041.1234",
        "std::vector, a::b, face::b00c",
        "11:46:03",
        "00:1b:44:11:3a:b7",
        "1.3.19.1",
        "300.1.1.1",
        "kernel-2.4.18.5",
    ],
)
def test_what_looks_like_one_and_what_leads_to_nobody_is_left_alone(text: str) -> None:
    assert found(ip_address, text) == []


@pytest.mark.parametrize("address", ["66.187.233.211", "2a00:1450:4001:81b::200e"])
def test_a_stand_in_was_never_given_to_anybody(address: str) -> None:
    made = stand_in(ip_address, address)
    assert (":" in made) == (":" in address)
    assert found(ip_address, made) == []


def test_all_spellings_of_an_address_have_one_stand_in() -> None:
    spellings = ("2a00:1450:0:0:0:0:0:1", "2A00:1450::1")
    assert len({stand_in(ip_address, spelling) for spelling in spellings}) == 1
