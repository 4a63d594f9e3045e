"""Bank account numbers."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers import iban

from .identifiers import found, shape, stand_in

#: Examples of SWIFT's registry.
REAL = (
    "DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606", "CH9300762011623852957",
    "NL91ABNA0417164300", "MT84MALT011000012345MTLCAST001S", "NO9386011117947", "PL61109010140000071219812874",
)  # fmt: skip


@pytest.mark.parametrize("number", REAL)
def test_numbers_are_found_however_they_are_spaced(number: str) -> None:
    spaced = " ".join(number[place : place + 4] for place in range(0, len(number), 4))
    for text in (number, spaced, number.lower(), spaced.replace(" ", "-")):
        assert found(iban, text) == [text]
        assert found(iban, f"Konto {text}, Bank X") == [text]
        assert iban.canonical(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "DE89370400440532013001",
        "DE893704004405320130",
        "XX89370400440532013000",
        "XDE89370400440532013000",
        "DE8937040044053201300012",
        "AB12",
        "DE00123456781234567807",
        "De89370400440532013000",
    ],
)
def test_what_looks_like_one_is_left_alone(text: str) -> None:
    assert found(iban, text) == []


def test_words_after_it_are_no_part_of_it() -> None:
    assert found(iban, "DE89 3704 0044 0532 0130 00 BIC COBADEFF") == ["DE89 3704 0044 0532 0130 00"]


@pytest.mark.parametrize("number", [*REAL, "DE89 3704 0044 0532 0130 00", "de89370400440532013000"])
def test_a_stand_in_is_a_number_of_the_same_country_and_shape(number: str) -> None:
    made = stand_in(iban, number)
    assert found(iban, made) == [made]
    assert shape(made) == shape(number)
    assert made[:2] == number[:2]
