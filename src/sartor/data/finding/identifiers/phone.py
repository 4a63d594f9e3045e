"""Telephone numbers: with the country's code wherever they stand; a country's own spelling if it is one of `countries`.

A shape proposes, the numbering plan decides (`phonenumbers`, Google's data). Dates, prices, order numbers and parts of
longer numbers are no candidates; digits alone, and numbers without the zero or area that would tell, count only after a
word such as `tel` or `fax`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence

from sartor.data.extra import needs
from sartor.data.finding.identifiers.checks import digits_of, spread
from sartor.data.finding.identifiers.draw import Draw
from sartor.data.finding.identifiers.runs import runs_of

SUMMARY = "telephone numbers"

_SPACE = r"[ \u00a0]{0,2}"
_GAP = rf"{_SPACE}[-./–]?{_SPACE}"
#: A gap that is there: with an empty one, a long row of digits could be cut in a million ways, and each would be tried.
_BREAK = rf"(?:[ \u00a0]{{1,2}}(?:[-./–]{_SPACE})?|[-./–]{_SPACE})"
_AMERICAN = r"(?:[ \u00a0]{1,2}|[-.]|[ \u00a0]-[ \u00a0]|- )"  # between the groups; not `573-583. 2020`
_ALONE = r"(?<![\w.,/+$€£=#&-])"  # before a number that starts without a plus
_END = r"(?:[ ,]{0,2}(?:ext?\.?|x) ?[0-9]{1,5})?(?![\w]|[-./][0-9])"  # perhaps after an extension
_SHAPES = re.compile(
    rf"(?<![\w+=])(?P<abroad>(?:\(?\+|00[ -]?(?=[1-9])){_SPACE}[1-9][0-9]{{0,14}}\)?"
    rf"(?:{_GAP}\(0?[0-9]{{0,4}}\){_SPACE}[0-9]{{0,12}})?(?:{_BREAK}[0-9]{{1,12}}){{0,6}}){_END}"
    rf"|{_ALONE}(?P<american>(?:1{_GAP})?(?:\([2-9][0-9]{{2}}\){_GAP}|[2-9][0-9]{{2}}(?:{_AMERICAN}|/))"
    rf"[2-9][0-9]{{2}}{_AMERICAN}[0-9]{{4}}){_END}"
    rf"|{_ALONE}(?P<home>(?:\(0[0-9]{{1,5}}\)|0[0-9]{{1,5}}){_SPACE}[-./ ]?{_SPACE}[0-9]{{2,8}}"
    rf"(?:[ \u00a0./-][0-9]{{2,6}}){{0,4}}){_END}"
)
#: A plus, a country's code and groups: a number even where no plan knows it, such as that of a retired network.
_SPELT_OUT = re.compile(rf"\+[1-9][0-9]{{0,2}}(?:{_BREAK}\(?[0-9]{{2,}}\)?){{2,6}}")
_NAMED = re.compile(rf"\(?\+?[0-9][0-9 \u00a0()./-]{{5,16}}[0-9]{_END}")
_WORD_BEFORE = re.compile(
    r"\b(?:tel(?:e(?:ph|f)ono?e?|efoon|é(?:phone)?)?|(?:tele)?phone|ph|(?:tele)?fax|facsimile|mob(?:ile|il)?|dial|ring"
    r"|cell(?:ular|phone)?|call|tlf|handy|voice(?: ?mail)?|toll[- ]free|whats ?app|sms|hotline|direct|rufnummer"
    r"|telefon(?:nummer)?|durchwahl|tél(?:éphone)?|portable|teléfono|móvil|cellulare)"
    r"(?: (?:us|me|no|number|nr|num|now|today|at|is|on|toll[- ]free|tel|line))*\.?[ \t]{0,3}[:#=]?[ \t]{0,3}[+(]?$",
    re.IGNORECASE,
)
_LOOK_BACK = 40  # characters, for the word
_EXTENSION = 12  # characters after a run
_DATE = re.compile(
    r"(?:(?:19|20)[0-9]{2}[-./ ][0-9]{1,2}[-./ ][0-9]{1,2}|(?:[0-9]{1,2}[-./ ]){2}(?:19|20)?[0-9]{2})(?: [0-9]{1,2})?"
)
_SEPARATED = re.compile(r"[0-9][^0-9]")
_LOCAL = re.compile(r"[2-9][0-9]{2}[-. ][0-9]{4}")
_FEWEST, _MOST = 7, 15  # digits (E.164)
_FEWEST_AT_HOME = 9  # with the zero before them: shorter ones are too alike other numbers
_KEPT = 0.5  # of the digits, from the left: country and area, which name no person
_TRIES = 200


def find(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    for start, end, digits in runs_of(text):
        if digits >= _FEWEST:
            yield from _in_run(text, start, end, tuple(countries))


def canonical(value: str) -> str:
    """The digits alone. A number with and without its country's code stays two: which country is not known here."""
    return digits_of(value).removeprefix("00")


def stand_in(value: str, draw: Draw) -> str:
    """The same country, area and spelling, another number; a valid one where the country is told."""
    digits = digits_of(value)
    kept = int(len(digits) * _KEPT)
    made = digits
    for _ in range(_TRIES):
        made = digits[:kept] + draw.like(digits[kept:])
        if made != digits and ("+" not in value or _valid(_plus(spread(value, made, str.isdigit)), "")):
            break
    return spread(value, made, str.isdigit)


def _in_run(text: str, start: int, end: int, countries: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """The numbers in a run of digits, which a plus or a bracket may precede."""
    if text[start - 1 : start] in "+(" and start:
        start -= 2 if text[start - 2 : start] == "(+" else 1
    before = text[max(0, start - _LOOK_BACK) : start].rstrip(" \t:#=.+(")
    if before[-1:].isalpha() and _WORD_BEFORE.search(text, max(0, start - _LOOK_BACK), start):
        named = _NAMED.match(text, start)
        length = _longest(named[0], lambda value: _is_named(value, countries)) if named else 0
        if length:
            yield start, start + length
            start += length
    for match in _SHAPES.finditer(text, start, end + _EXTENSION):
        good = functools.partial(_is_phone, kind=match.lastgroup or "", countries=countries)
        if length := _longest(match[0], good):
            yield match.start(), match.start() + length


def _longest(value: str, good: Callable[[str], bool]) -> int:
    """The length of the longest beginning that is a number: another one may follow after a space."""
    while len(digits_of(value)) >= _FEWEST:
        if good(value):
            return len(value)
        value = value.rpartition(" ")[0].rstrip(" (-/.")
    return 0


def _is_phone(value: str, kind: str, countries: tuple[str, ...]) -> bool:
    if len(digits_of(value)) > _MOST:
        return False
    if kind == "abroad":
        spelt_out = _SPELT_OUT.fullmatch(value) is not None and len(digits_of(value)) >= _FEWEST_AT_HOME
        return spelt_out or _valid(_plus(value), "")
    american = _american()
    if kind == "american":
        return any(_valid(value, country) for country in countries if country in american)
    if _DATE.fullmatch(value) or _SEPARATED.search(value) is None or len(digits_of(value)) < _FEWEST_AT_HOME:
        return False
    return any(_valid(value, country) for country in countries if country not in american)


def _is_named(value: str, countries: tuple[str, ...]) -> bool:
    """A word has said that it is a telephone's: then digits alone do, and seven as Americans write them at home."""
    if _DATE.fullmatch(value) or len(digits_of(value)) > _MOST:
        return False
    if value.startswith("+") and len(digits_of(value)) >= _FEWEST_AT_HOME:  # of networks that have no plan, too
        return True
    local = _LOCAL.fullmatch(value) is not None and not _american().isdisjoint(countries)
    return local or any(_valid(value, country) for country in countries) or _valid(_plus(value), "")


def _plus(value: str) -> str:
    """A number with its country's code as `phonenumbers` reads it."""
    return "+" + re.sub(r"^(?:\(?\+|00)[ -]?", "", value).replace("(0)", "")


@functools.lru_cache(maxsize=4096)
def _valid(value: str, country: str) -> bool:
    library = needs("phonenumbers")
    try:
        return bool(library.is_valid_number(library.parse(value, country or None)))
    except library.NumberParseException:
        return False


@functools.cache
def _american() -> frozenset[str]:
    """The countries of the North American numbering plan, which has its own spelling."""
    return frozenset(needs("phonenumbers").COUNTRY_CODE_TO_REGION_CODE[1])
