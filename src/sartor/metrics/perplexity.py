"""How likely the model finds the target: for running text, and for answers that have no one right wording."""

from __future__ import annotations

import math

from sartor import stats
from sartor.types import Chat, Frozen, Score, Text

SUMMARY = "the probability the model gives to each token of the target, on average: 1 / perplexity"
READS = "likelihood"

reduce = stats.summarise


class Config(Frozen):
    """No settings."""


def score(config: Config, example: Chat | Text, logprob: float) -> Score:
    """1 / perplexity, in [0, 1], from the mean log-probability of a target token (nats)."""
    return Score(value=math.exp(min(0.0, logprob)), detail=f"perplexity {math.exp(min(700.0, -logprob)):.2f}")
