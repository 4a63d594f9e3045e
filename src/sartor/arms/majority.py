"""No model at all: the most frequent answer of the training split, to every item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from sartor.types import Chat, Embed, Form, Frozen

SUMMARY = "no model: the most frequent label of the training split"
TUNED = False
EMBEDS = False
FORMS: frozenset[Form] = frozenset({"classifier"})


class Config(Frozen):
    """The answer."""

    label: str


def candidates(train: Sequence[Chat], room: int, measure: Callable[[Chat], int], seed: int) -> list[Config]:
    """The most frequent answer; of equals, the first in the order of the alphabet."""
    counts = Counter(example.target.strip() for example in train)
    return [Config(label=min(counts, key=lambda label: (-counts[label], label)))] if counts else []


def answers(config: Config, items: Sequence[Chat], embed: Embed) -> list[str]:
    return [config.label for _ in items]


def described(config: Config) -> str:
    return f"always {config.label!r}"
