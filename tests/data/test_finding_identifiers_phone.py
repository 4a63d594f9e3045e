"""Telephone numbers, and what looks like them."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers import phone

from .identifiers import found, shape, stand_in


@pytest.mark.parametrize(
    "number",
    [
        "+49 30 901820",
        "+49 (0)30 901820",
        "0049 171 2345678",
        "+44 20 7946 0958",
        "+1 512 374 0500",
        "+1.949.833.2800",
        "+33 6 12 34 56 78",
        "+41 44 668 18 00",
        "(415) 555-2671",
        "415-555-2671",
        "415.555.2671",
        "1-888-748-7751",
        "020 7946 0958",
        "0171/2345678",
        "030 12345678",
        "06 12 34 56 78",
        "06.12.34.56.78",
        "(602) 392-8288",
        "1  212  937  2149",
        "+873-762-692484",
    ],
)
def test_numbers_are_found(number: str) -> None:
    assert found(phone, number) == [number]
    assert found(phone, f"You reach me under {number}, or never.") == [number]
    assert found(phone, f"<td>{number}</td>") == [number]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("phone: 4155552671", "4155552671"),
        ("Please call 555-0123 now", "555-0123"),
        ("Tel. 612 34 56 78", "612 34 56 78"),
        ("Telefon +49 30 901820", "+49 30 901820"),
        ("fax 27-83-750 9598", "27-83-750 9598"),
        ("call (949) 222-6550 ext. 213", "(949) 222-6550 ext. 213"),
        ("+49 30 901820 123-45-6789", "+49 30 901820"),
    ],
)
def test_what_stands_beside_it_is_looked_at(text: str, number: str) -> None:
    assert found(phone, text) == [number]
    assert found(phone, "4155552671") == []


@pytest.mark.parametrize(
    "text",
    [
        "2002-08-21 11:46",
        "12/08/2002",
        "05.11.2019",
        "2002/08/26/1154225",
        "Order #1002345678",
        "ISBN 978-3-16-148410-0",
        "ISSN 1470-1448",
        "$50,000.000.00",
        "1,299,000.00",
        "1997-2002",
        "version 10.0.19041.1234",
        "66.187.233.211",
        "http://x.net/item?id=4155552671",
        "1029944441.398",
        "16877  1.0  0.2  1824  540",
        "FL 33710-3918",
        "4111 1111 1111 1111 2",
        "0361 / 1938",
        "+0 12 34 56 78",
        "3.14159265358979",
        "page 101-155",
        "pp. 573-583. 2020",
    ],
)
def test_what_looks_like_one_is_left_alone(text: str) -> None:
    assert found(phone, text) == []


def test_a_countrys_own_spelling_counts_where_the_country_is_named() -> None:
    assert found(phone, "020 7946 0958", ("US",)) == []
    assert found(phone, "+44 20 7946 0958", ()) == ["+44 20 7946 0958"]
    assert found(phone, "415-555-2671", ("DE",)) == []


@pytest.mark.parametrize("number", ["+49 (0)30 901820", "(415) 555-2671", "0171/2345678", "(949) 222-6550 ext. 213"])
def test_a_stand_in_has_the_shape_and_the_area(number: str) -> None:
    made = stand_in(phone, number)
    assert shape(made) == shape(number)
    assert made[:5] == number[:5]


def test_all_spellings_of_a_number_have_one_stand_in() -> None:
    assert phone.canonical("0049 30 901820") == phone.canonical("+49-30-901820")
