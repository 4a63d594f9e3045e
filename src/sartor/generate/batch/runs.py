"""Which adapter each token of the current forward has, for the layers to read while it goes through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

BASE = -1  # the number of no adapter


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens of one adapter."""

    adapter: int
    rows: slice


class Runs:
    """The adapters of a list of tokens. Tokens of the base are in no run."""

    def __init__(self) -> None:
        self.set([])

    def set(self, adapters: Sequence[int]) -> None:
        self.num_tokens = len(adapters)
        self._runs: list[Run] = []
        start = 0
        for adapter, tokens in groupby(adapters):
            end = start + sum(1 for _ in tokens)
            if adapter != BASE:
                self._runs.append(Run(adapter, slice(start, end)))
            start = end

    def of(self, adapters: Mapping[int, object]) -> list[Run]:
        """The runs of these adapters, in the order of their tokens."""
        return [run for run in self._runs if run.adapter in adapters] if adapters else []


@dataclass(frozen=True, slots=True)
class Choice:
    """The adapters of all tokens, and those of the tokens whose logits are wanted: the head sees no others."""

    tokens: Runs = field(default_factory=Runs)
    wanted: Runs = field(default_factory=Runs)

    def set(self, adapters: Sequence[int], wanted: Sequence[int]) -> None:
        """The adapter of each token of the next forward, and the places of the tokens that are wanted."""
        self.tokens.set(adapters)
        self.wanted.set([adapters[place] for place in wanted])
