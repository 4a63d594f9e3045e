"""Payment card numbers: an issuer's range and length, Luhn's check digit, and grouped as cards are printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sartor.data.finding.identifiers.checks import digits_of, luhn, spread, until
from sartor.data.finding.identifiers.draw import Draw
from sartor.data.finding.identifiers.runs import runs_of

SUMMARY = "payment card numbers"

_SHAPE = re.compile(
    r"[0-9](?<![\w+.,/=#-].)(?<![0-9][ -].)[0-9]{3}"
    r"(?:([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{3})?|([ -])[0-9]{6}\2[0-9]{4,5}|[0-9]{9,15})"
    r"(?![\w/-]|[.,][0-9]| [0-9]{3,})"
)
#: First digits and lengths by issuer (ISO/IEC 7812, the issuers' public ranges).
_ISSUERS = (
    (
        re.compile(r"4"),
        (16, 19),
    ),  # Visa; its 13 digits are long gone, and every 13-digit article number begins like a card
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),  # Discover
    (re.compile(r"30[0-5]|3[689]"), (14,)),  # Diners Club
    (re.compile(r"35(?:2[89]|[3-8])"), (16, 17, 18, 19)),  # JCB
    (re.compile(r"62"), (16, 17, 18, 19)),  # UnionPay
    (re.compile(r"5018|5020|5038|5893|6304|6759|676[1-3]"), (13, 14, 15, 16, 17, 18, 19)),  # Maestro
)
_ISSUER_DIGITS = 6
_FEWEST = 13  # digits
_BEYOND = 5  # characters after a run that are looked at


def find(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    for start, end, digits in runs_of(text):
        if digits < _FEWEST:
            continue
        for match in _SHAPE.finditer(text, start, end + _BEYOND):
            if is_card(digits_of(match[0])):
                yield match.span()


def is_card(digits: str) -> bool:
    known = any(len(digits) in lengths and first.match(digits) for first, lengths in _ISSUERS)
    return known and len(set(digits)) > 1 and luhn(digits)


def canonical(value: str) -> str:
    return digits_of(value)


def stand_in(value: str, draw: Draw) -> str:
    """The same issuer and spacing, another account."""
    digits = digits_of(value)
    issuer, account = digits[:_ISSUER_DIGITS], digits[_ISSUER_DIGITS:]
    made = until(
        lambda number: is_card(number) and number != digits, (issuer + draw.like(account) for _ in iter(int, 1))
    )
    return spread(value, made)
