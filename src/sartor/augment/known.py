"""What an example is compared with: the seeds, and all that was made before; how far from the seeds it may be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sartor.augment import Made, Recipe
from sartor.augment.checks import Problem, made_answer
from sartor.augment.turns import question_of
from sartor.data import near
from sartor.data.finding.alike import tagged
from sartor.data.near.index import Look
from sartor.types import Chat

#: Characters in a row that are compared. A paraphrase shares about 60 % of them, a question on the same subject 10 %.
_RUN = 3
#: The share of what is made that some seed must know, if it is at least so many characters long. Of English sentences
#: about anything else it is 20 % and more, of gibberish and other scripts next to nothing; but seeds of fewer runs than
#: that know little themselves.
_LEAST_KNOWN, _LONG_ENOUGH, _MANY_RUNS = 0.1, 60, 150
#: Seeds from which a common frame, such as an instruction before each question, can be told apart.
_FEWEST_FOR_FRAME = 10


class Known:
    """All examples so far, seeds and made ones: what one more is compared with.

    Args:
        recipe: says which texts must not be met twice, and how like its own seed an example may be.
        threshold: the least nearness of duplicates.
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[Chat], threshold: float) -> None:
        self._batch, self._keep = near.BATCH, np.ones(near.BATCH, bool)
        self._recipe = recipe
        texts = [self._text(seed) for seed in seeds]
        self._index = near.Index(threshold, near.frame_of(texts) if len(texts) >= _FEWEST_FOR_FRAME else None)
        self._runs: frozenset[str] = frozenset().union(*map(_runs, texts))
        self._ids: list[str] = []
        self._digests: dict[str, str] = {}
        self.add(seeds)

    def add(self, examples: Sequence[Made]) -> None:
        """More to compare with."""
        for start in range(0, len(examples), self._batch):
            batch = examples[start : start + self._batch]
            look = self._looked(batch)
            self._index.take(look, self._keep[: len(batch)])
            self._ids += [example.id for example in batch]
            for example in batch:
                self._digests.setdefault(self._digest(example), example.id)

    def problems(self, example: Made, seed: Chat) -> tuple[Problem, ...]:
        """What is wrong with an example beside the others."""
        twin = self._digests.get(self._digest(example))
        if twin is not None:
            return (Problem(reason="duplicate", detail=f"the same as {twin}"),)
        for _, number, likeness in self._looked([example]).pairs:
            if self._ids[number] != seed.id:  # how near it may be to that is the recipe's to say
                return (Problem(reason="near_duplicate", detail=f"{likeness:.2f} like {self._ids[number]}"),)
        return self._distance(example, seed)

    def _distance(self, example: Made, seed: Chat) -> tuple[Problem, ...]:
        least, most = self._recipe.ALIKE
        text = self._text(example)
        own = alike(text, self._text(seed))
        if own > most:
            return (Problem(reason="too_near_seed", detail=f"{own:.2f} like {seed.id}, at most {most:g}"),)
        if own < least:
            return (Problem(reason="too_far", detail=f"{own:.2f} like {seed.id}, at least {least:g}"),)
        known = len(_runs(text) & self._runs) / len(_runs(text))
        if len(text) >= _LONG_ENOUGH and len(self._runs) >= _MANY_RUNS and known < _LEAST_KNOWN:
            detail = f"the seeds have {known:.0%} of it, at least {_LEAST_KNOWN:.0%}"
            return (Problem(reason="too_far", detail=detail),)
        return ()

    def _looked(self, examples: Sequence[Made]) -> Look:
        _, tags = tagged(examples, self._recipe.COMPARES, numbers=True)
        return self._index.look([self._text(example) for example in examples], tags, among_themselves=False)

    def _text(self, example: Made) -> str:
        if self._recipe.COMPARES == "question":
            return question_of(example)
        return f"{question_of(example)}\n{made_answer(example)}"

    def _digest(self, example: Made) -> str:
        if self._recipe.COMPARES == "question":
            return example.prompt_digest
        return f"{example.prompt_digest} {made_answer(example)}"


def alike(one: str, other: str) -> float:
    """What two texts have in common: the Jaccard index of their runs of three characters, 0 to 1."""
    ours, theirs = _runs(one), _runs(other)
    return len(ours & theirs) / len(ours | theirs)


@lru_cache(maxsize=4096)
def _runs(text: str) -> frozenset[str]:
    plain = " ".join(text.casefold().split())
    return frozenset(plain[start : start + _RUN] for start in range(max(1, len(plain) - _RUN + 1)))
