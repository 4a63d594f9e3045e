"""The target stands somewhere in the answer. An empty target stands only in an empty answer."""

from __future__ import annotations

from sartor import stats
from sartor.metrics.normalise import Normalisation, normalised
from sartor.types import Chat, Score

Config = Normalisation
SUMMARY = "1 if the target appears anywhere in the answer"

#: Characters of the target that a detail quotes.
QUOTED = 80

reduce = stats.summarise


def score(config: Config, example: Chat, output: str) -> Score:
    """1 if the target appears in the answer, both normalised, else 0.

    The empty text is part of every text, so an empty target would forgive anything: it asks for an empty answer.
    """
    seen, expected = normalised(output, config), normalised(example.target, config)
    if not expected:
        return Score(value=0.0, detail="the target is empty, the answer is not") if seen else Score(value=1.0)
    if expected in seen:
        return Score(value=1.0)
    quoted = expected if len(expected) <= QUOTED else expected[:QUOTED] + "…"
    return Score(value=0.0, detail=f"{quoted!r} does not appear")
