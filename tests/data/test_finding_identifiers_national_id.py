"""National identity numbers."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers import national_id

from .identifiers import found, shape, stand_in

REAL = (
    "123-45-6789",
    "AB 12 34 56 C",
    "AB123456C",
    "12345678Z",
    "12.345.678-Z",
    "X1234567L",
    "RSSMRA85T10A562S",
    "756.9217.0769.85",
    "390.533.447-05",
    "811218-9876",
    "19811218-9876",
    "131052-308T",
    "2 55 08 14 168 025 38",
    "255081416802538",
)


@pytest.mark.parametrize("number", REAL)
def test_numbers_are_found(number: str) -> None:
    assert found(national_id, f"ID {number}, born there") == [number]


@pytest.mark.parametrize(
    "text",
    [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "BG 12 34 56 C",
        "AB 12 34 56 E",
        "12345678A",
        "X1234567A",
        "RSSMRA85T10A562T",
        "756.9217.0769.86",
        "390.533.447-06",
        "111.111.111-11",
        "811218-9875",
        "811318-9876",
        "131052-308U",
        "255081416802539",
        "+1-123-45-6789",
        "123-45-67890",
        "1123-45-6789",
    ],
)
def test_a_wrong_check_digit_or_a_place_that_is_not_given_out_is_none(text: str) -> None:
    assert found(national_id, text) == []


@pytest.mark.parametrize("number", REAL)
def test_a_stand_in_is_a_number_of_the_same_country_and_shape(number: str) -> None:
    made = stand_in(national_id, number)
    assert found(national_id, made) == [made]
    assert shape(made) == shape(number)
