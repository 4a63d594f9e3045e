"""The answer is the target, character by character."""

from __future__ import annotations

import itertools

from sartor import stats
from sartor.metrics.normalise import Normalisation, normalised
from sartor.types import Chat, Score

Config = Normalisation
SUMMARY = "1 if the answer equals the target, apart from outer white space and Unicode form"

reduce = stats.summarise


def score(config: Config, example: Chat, output: str) -> Score:
    """1 for equality, else 0; the detail names the first character that differs, counted from 1 after normalisation."""
    seen, expected = normalised(output, config), normalised(example.target, config)
    if seen == expected:
        return Score(value=1.0)
    return Score(value=0.0, detail=_first_difference(seen, expected))


def _first_difference(seen: str, expected: str) -> str:
    pairs = enumerate(itertools.zip_longest(seen, expected), start=1)
    place, (left, right) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    return f"differs at character {place}: saw {_named(left)}, expected {_named(right)}"


def _named(character: str | None) -> str:
    return "the end" if character is None else repr(character)
