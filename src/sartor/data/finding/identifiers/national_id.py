"""National identity numbers whose shape or check digit is telling: others are too alike any number of that length.

The United States' and Britain's have no check digit, but a shape that little else has. Numbers of bare digits
(Germany's, Poland's, the Netherlands') are left out: one in ten or eleven of all numbers of their length would pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date

from sartor.data.finding.identifiers.checks import digits_of, luhn, spread
from sartor.data.finding.identifiers.draw import Draw
from sartor.data.finding.identifiers.runs import runs_of

SUMMARY = "national identity numbers: BR CH ES FI FR GB IT SE US"

#: By country: what comes first, a digit or a capital, and what follows.
_SHAPES = {
    "US": ("[0-9]", r"(?<!9)[0-9]{2}-(?<!000-)(?<!666-)(?!00)[0-9]{2}-(?!0000)[0-9]{4}"),
    "ES": ("[0-9]", r"[0-9]\.?[0-9]{3}\.?[0-9]{3}-?[A-HJ-NP-TV-Z]"),
    "FR": ("[0-9]", r"(?<=[12]) ?[0-9]{2} ?(?:0[1-9]|1[0-2]) ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"),
    "CH": ("[0-9]", r"(?<=7)56[. ]?[0-9]{4}[. ]?[0-9]{4}[. ]?[0-9]{2}"),
    "BR": ("[0-9]", r"[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
    "SE": ("[0-9]", r"[0-9]{5}(?:[0-9]{2})?[-+][0-9]{4}"),
    "FI": ("[0-9]", r"[0-9]{5}[-+A][0-9]{3}[0-9A-FHJ-NPR-Y]"),
    "GB": ("[A-Z]", r"(?<=[A-CEGHJ-PR-TW-Z])[A-CEGHJ-NPR-TW-Z](?<!BG|GB|KN|NK|NT|TN|ZZ)(?: ?[0-9]{2}){3} ?[A-D]"),
    "NIE": ("[A-Z]", r"(?<=[XYZ])-?[0-9]{7}-?[A-HJ-NP-TV-Z]"),
    "IT": ("[A-Z]", r"[A-Z]{5}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]"),
}


def _starting(first: str) -> re.Pattern[str]:
    """All shapes that start so. What must not stand before comes after: so the search jumps from start to start."""
    shapes = "|".join(f"(?P<{code}>{rest})" for code, (start, rest) in _SHAPES.items() if start == first)
    return re.compile(rf"{first}(?<![\w.+-].)(?:{shapes})(?![\w-]|\.[0-9])")


_DIGIT_FIRST, _LETTER_FIRST = _starting("[0-9]"), _starting("[A-Z]")
_KEPT = {"CH": 3, "FR": 1, "NIE": 1}  # leading characters that say what it is, and no person
_BEYOND = 16  # characters after a run of digits: the rest of `1 55 08 2A 168 025 38`
_TRIES = 4096  # the rarest check passes one draw in 97, and a date among random digits one in some thirty


def find(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    for start, end, _ in runs_of(text):
        for match in _DIGIT_FIRST.finditer(text, start, end + _BEYOND):
            if match.start() < end and _valid(match.lastgroup or "", match[0]):
                yield match.span()
    for match in _LETTER_FIRST.finditer(text):
        if _valid(match.lastgroup or "", match[0]):
            yield match.span()


def canonical(value: str) -> str:
    return "".join(character for character in value if character.isalnum()).upper()


def stand_in(value: str, draw: Draw) -> str:
    """One of the same country that passes the same check."""
    code = _country(value)
    kept = _KEPT.get(code, 0)
    for _ in range(_TRIES):
        made = spread(value, _alike(code, canonical(value), kept, draw))
        if made != value and _country(made) == code and _valid(code, made):
            return made
    return draw.like(value)


def _country(value: str) -> str:
    """Whose shape a value has."""
    matches = (shapes.fullmatch(value) for shapes in (_DIGIT_FIRST, _LETTER_FIRST))
    return next((match.lastgroup or "" for match in matches if match), "")


def _alike(code: str, plain: str, kept: int, draw: Draw) -> str:
    drawn = plain[:kept] + draw.like(plain[kept:])
    if code in ("ES", "NIE"):
        return drawn[:-1] + _spanish(drawn)
    return drawn[:-1] + _italian(drawn[:-1]) if code == "IT" else drawn


def _valid(code: str, value: str) -> bool:
    return code not in _CHECKS or _CHECKS[code](canonical(value))


def _spanish(plain: str) -> str:
    """The letter of a DNI or NIE: the number's remainder of 23; X, Y and Z count as 0, 1 and 2."""
    number = str("XYZ".find(plain[0])) + plain[1:-1] if plain[0] in "XYZ" else plain[:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] if number.isdigit() else ""


#: What the first, third, … character of a codice fiscale counts: the values of A to Z, of which 0 to 9 have the first.
_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def _italian(body: str) -> str:
    """The check letter of a codice fiscale."""
    values = [int(character) if character.isdigit() else ord(character) - 65 for character in body]
    return chr(65 + (sum(_ODD[value] for value in values[::2]) + sum(values[1::2])) % 26)


def _french(plain: str) -> bool:
    """97 less the remainder of the number; Corsica's departments count as 19 and 18."""
    number = plain[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(plain[13:])


def _swiss(plain: str) -> bool:
    """The check digit of EAN-13."""
    return sum(int(digit) * (3 if index % 2 else 1) for index, digit in enumerate(plain)) % 10 == 0


def _brazilian(plain: str) -> bool:
    """Two check digits: the weighted sums' remainders of 11."""
    if len(set(plain)) == 1:
        return False
    for length in (9, 10):
        total = sum(int(digit) * (length + 1 - index) for index, digit in enumerate(plain[:length]))
        if total * 10 % 11 % 10 != int(plain[length]):
            return False
    return True


def _swedish(plain: str) -> bool:
    digits = digits_of(plain)[-10:]
    return _is_date(digits[4:6], digits[2:4]) and luhn(digits)


def _finnish(plain: str) -> bool:
    digits = plain[:6] + plain[-4:-1]
    return _is_date(plain[:2], plain[2:4]) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == plain[-1]


def _is_date(day: str, month: str) -> bool:
    try:
        date(2000, int(month), int(day))
    except ValueError:
        return False
    return True


_CHECKS: dict[str, Callable[[str], bool]] = {
    "ES": lambda plain: _spanish(plain) == plain[-1],
    "NIE": lambda plain: _spanish(plain) == plain[-1],
    "IT": lambda plain: _italian(plain[:-1]) == plain[-1],
    "FR": _french,
    "CH": _swiss,
    "BR": _brazilian,
    "SE": _swedish,
    "FI": _finnish,
}
