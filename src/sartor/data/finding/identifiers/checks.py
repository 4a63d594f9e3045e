"""Check digits that several kinds of identifiers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812: from the right, every second digit doubled; the digit sums add up to a multiple of ten."""
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])) % 10 == 0


def digits_of(text: str) -> str:
    """The digits of a text, in their order."""
    return "".join(character for character in text if character.isdigit())


def until(good: Callable[[str], bool], drawn: Iterator[str]) -> str:
    """The first drawn text that is good. Each draw has to be good often: one in a few hundred at least."""
    return next(text for text in drawn if good(text))


def spread(over: str, characters: str, takes: Callable[[str], bool] = str.isalnum) -> str:
    """`characters`, one after the other, in place of those of `over` that it `takes`; marks and spaces stay."""
    rest = iter(characters)
    return "".join(next(rest) if takes(place) else place for place in over)
