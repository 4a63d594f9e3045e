"""What the tests of identifiers share: what a kind finds in a text, and the promises that every stand-in keeps."""

from __future__ import annotations

from types import ModuleType

from sartor.data.finding.identifiers import stand_in_of

COUNTRIES = ("US", "GB", "DE", "FR", "ES", "IT")


def found(kind: ModuleType, text: str, countries: tuple[str, ...] = COUNTRIES) -> list[str]:
    """The values that a kind finds in a text."""
    return [text[start:end] for start, end in kind.find(text, countries)]


def stand_in(kind: ModuleType, value: str, seed: int = 17) -> str:
    """The stand-in of a value, which is another one, and always the same."""
    name = kind.__name__.rpartition(".")[2]
    made = stand_in_of(name, kind, value, seed)
    assert made != value
    assert made == stand_in_of(name, kind, value, seed)
    assert made != stand_in_of(name, kind, value, seed + 1)
    return made


def shape(text: str) -> str:
    """Digits as 0, letters as a: what two values of one shape share."""
    return "".join("0" if mark.isdigit() else "a" if mark.isalpha() else mark for mark in text)
