"""International bank account numbers (ISO 13616): the country's length, and the remainder 1 of 97."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sartor.data.finding.identifiers.checks import spread
from sartor.data.finding.identifiers.draw import Draw

SUMMARY = "bank account numbers (IBAN)"

#: The length in each country of SWIFT's registry of IBANs.
_LENGTHS = {
    code: int(length)
    for length, codes in {
        "15": "NO", "16": "BE", "18": "DK FK FI FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV", "29": "BR EG PS QA UA", "30": "JO KW MU YE", "31": "MT SC",
        "32": "LC", "33": "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
#: Two digits after two letters of one case, which begin a word: looked for from the digits, of which there are fewer.
_START = re.compile(r"[0-9](?:(?<=[A-Z]{2}.)|(?<=[a-z]{2}.))(?<![A-Za-z0-9]..[0-9])[0-9](?=[ \u00a0-]?[A-Za-z0-9]{4})")
_REST = re.compile(r"(?:[ \u00a0-]?[A-Za-z0-9])*")
_MOST_REST = 60  # characters after the check digits: 30 and a mark between any two


def find(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    for match in _START.finditer(text):
        start = match.start() - 2
        length = _LENGTHS.get(text[start : start + 2].upper())
        if length is None:
            continue
        rest = _REST.match(text, match.end(), match.end() + _MOST_REST)
        end = _end(text, start, rest.end() if rest else match.end(), length)
        if end and is_iban(canonical(text[start:end])):
            yield start, end


def is_iban(plain: str) -> bool:
    """Of capital letters and digits alone: the first four moved to the end, letters as 10 to 35. No remainder gives the
    check digits 00, 01 or 99."""
    remainder = int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97
    return remainder == 1 and 2 <= int(plain[2:4]) <= 98


def canonical(value: str) -> str:
    return "".join(character for character in value if character.isalnum()).upper()


def stand_in(value: str, draw: Draw) -> str:
    """The same country and spacing, another account, and the check digits that belong to it."""
    plain = canonical(value)
    account = draw.like(plain[4:])
    moved = "".join(str(int(character, 36)) for character in f"{account}{plain[:2]}00")
    made = f"{plain[:2]}{98 - int(moved) % 97:02d}{account}"
    return spread(value, made if value[:2].isupper() else made.lower())


def _end(text: str, start: int, limit: int, length: int) -> int:
    """Where `length` letters and digits end, or 0 where the word goes on after them or there are fewer."""
    count = 0
    for place in range(start, limit):
        count += text[place].isalnum()
        if count == length:
            return 0 if text[place + 1 : place + 2].isalnum() else place + 1
    return 0
