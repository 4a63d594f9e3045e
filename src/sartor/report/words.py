"""Numbers and foreign text as a reader meets them on the page. Pure functions; the template uses them as filters."""

from __future__ import annotations

import math

_MINUS = "−"
_LONE_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # they cannot be written as UTF-8
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_VISIBLE = str.maketrans({**_LONE_SURROGATES, **_CONTROLS})

#: How p was computed, for people who do not know the test's name.
TESTS = {
    "mcnemar_exact": "exact McNemar test: are the flips up and down as even as a coin would make them?",
    "sign_flip_exact": "exact sign-flip test: every way to swap the two answers of each item",
    "sign_flip_monte_carlo": "sign-flip test: many random swaps of the two answers of each item",
}


def visible(text: str) -> str:
    """Text that a page can show: control characters as their symbols, lone surrogates as the replacement character."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def shortened(text: str, limit: int) -> tuple[str, int]:
    """The first `limit` characters, and how many were left off."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)


def percent(share: float) -> str:
    """0.425 → 42.5%"""
    return f"{share * 100:.1f}%".replace("-", _MINUS)


def change(share: float) -> str:
    """0.031 → +3.1%"""
    return f"{share * 100:+.1f}%".replace("-", _MINUS)


def points(difference: float) -> str:
    """0.315 → +31.5: percentage points, without the unit."""
    return f"{difference * 100:+.1f}".replace("-", _MINUS)


def count(number: float) -> str:
    """Whole numbers with separators; below ten, one decimal if it says something."""
    if abs(number) < 10 and not float(number).is_integer():
        return f"{number:.1f}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the units that people use: 0.42 s, 41 s, 7 min 5 s, 2 h 4 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(num_bytes: float) -> str:
    """Bytes as GiB, or MiB where that is more readable."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def p_value(p: float) -> str:
    """p as a reader can use it: beyond four decimals it says only "very small"."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def against(foretold: float, measured: float) -> str:
    """How far a measured number is from the foretold one, in words."""
    if foretold <= 0 or not math.isfinite(measured / foretold):
        return "—"
    ratio = measured / foretold
    if abs(ratio - 1) < 0.005:
        return "as foretold"
    if ratio >= 2:
        return f"{ratio:.1f} times as much"
    return f"{abs(ratio - 1):.0%} {'more' if ratio > 1 else 'less'}"


def test_in_words(name: str) -> str:
    """The test's name in plain words; an unknown one stays as it is."""
    return TESTS.get(name, name.replace("_", " "))


def plain(value: object) -> str:
    """A value of the plan as text: no brackets and quotes where none are needed."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(inner) for inner in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
