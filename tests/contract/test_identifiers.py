"""The contract of a kind of identifier, over every file of the folder: adding a kind adds its row here."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor import names
from sartor.data.finding.identifiers import KIND, found_in, identifier, stand_in_of

NAMES = names.known(KIND)
COUNTRIES = ("US", "GB", "DE", "FR", "ES", "IT")
#: Pieces of which texts are made that are nearly identifiers, and sometimes one.
PIECES = st.sampled_from(
    [
        *("+49", "(0)", "030", "901820", "415", "555-2671", " ext. 213", "0044", "call ", "Tel: ", "06.12.34.56.78"),
        *(
            "jane",
            "@",
            "mail",
            ".net",
            " (at) ",
            "<",
            ">",
            "=",
            "Message-ID: ",
            "DE89 3704 0044 0532 0130 00",
            "4111 1111 1111 1111",
        ),
        *(
            "66.187.233.211",
            "2a00:1450::",
            "200e",
            "123-45-6789",
            "12345678Z",
            "X1234567L",
            "811218-9876",
            "AB 12 34 56 C",
        ),
        *(" ", "  ", "-", ".", ",", "\n", "/", ":", "x", "7", "12", "é", "٣", "\u00a0", "–", "(", ")"),
    ]
)
TEXTS = st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=40)


def test_the_kinds_of_the_issue_are_known() -> None:
    assert {"e_mail", "phone", "iban", "card", "ip_address"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_members(name: str) -> None:
    kind = identifier(name)
    assert kind.SUMMARY.strip() == kind.SUMMARY != ""
    assert "\n" not in kind.SUMMARY
    assert len(kind.SUMMARY) <= 100


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_finds_lie_in_the_text_and_have_a_stand_in(name: str, text: str) -> None:
    kind = identifier(name)
    spans = list(kind.find(text, COUNTRIES))
    assert spans == list(kind.find(text, COUNTRIES))
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        value = text[start:end]
        assert value == value.strip()
        assert kind.canonical(value) == kind.canonical(value)
        made = stand_in_of(name, kind, value, seed=17)
        assert made == stand_in_of(name, kind, value, seed=17)
        assert made != value
        assert made.strip() == made != ""


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_finds_of_all_kinds_never_overlap(text: str) -> None:
    spans = found_in(text, [(name, identifier(name)) for name in NAMES], COUNTRIES)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    assert {span.kind for span in spans} <= set(NAMES)
