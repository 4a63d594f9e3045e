"""Payment card numbers."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers import card

from .identifiers import found, shape, stand_in

#: The issuers' public test numbers.
REAL = (
    "4111111111111111",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "6011111111111117",
    "30569309025904",
    "3530111333300000",
)


@pytest.mark.parametrize("number", REAL)
def test_numbers_are_found(number: str) -> None:
    assert found(card, f"pay with {number}, please") == [number]


@pytest.mark.parametrize("number", ["4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005"])
def test_numbers_are_found_as_they_are_printed(number: str) -> None:
    assert found(card, f"card {number} 12/27") == [number]


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "4111 1111-1111 1111",
        "411 1111 1111 11111",
        "1234567890123456",
        "4006381333931",
        "id=4111111111111111",
        "4111111111111111.5",
        "0000000000000000",
        "9400 1000 0000 0000 0000 00",
        "94111111111111111",
        "x4111111111111111",
    ],
)
def test_what_looks_like_one_is_left_alone(text: str) -> None:
    assert found(card, text) == []


@pytest.mark.parametrize("number", [*REAL, "4111 1111 1111 1111", "3782-822463-10005"])
def test_a_stand_in_is_a_number_of_the_same_issuer_and_shape(number: str) -> None:
    made = stand_in(card, number)
    assert found(card, made) == [made]
    assert shape(made) == shape(number)
    assert card.canonical(made)[:6] == card.canonical(number)[:6]
