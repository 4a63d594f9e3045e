"""What is looked at before a person looks: form, language, length, duplicates, distance from the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import Field

from sartor.augment import Made, Recipe
from sartor.augment.turns import answer_of, question_of
from sartor.data.alike import tagged
from sartor.data.languages import language_of
from sartor.data.split import labels
from sartor.formats import strict
from sartor.formats.fields import shorten
from sartor.types import Chat, Frozen, Pair

if TYPE_CHECKING:
    from sartor.data.near.index import Look

#: Characters in a row that are compared. A paraphrase shares about 60 % of them, a question on the same subject 10 %.
_RUN = 3
#: The share of what is made that some seed must know, if it is at least so many characters long. Of English sentences
#: about anything else it is 20 % and more, of gibberish and other scripts next to nothing; but seeds of fewer runs than
#: that know little themselves.
_LEAST_KNOWN, _LONG_ENOUGH, _MANY_RUNS = 0.1, 60, 150
#: Seeds from which a common frame, such as an instruction before each question, can be told apart.
_FEWEST_FOR_FRAME = 10
#: No text of so many characters is too long, however short the seeds are.
_ALWAYS_ALLOWED = 40


class Config(Frozen):
    """How strict the checks are."""

    duplicates: float = Field(default=0.7, ge=0.5, le=1, description="Two examples as near as that are one.")
    language: bool = Field(default=True, description="What is made must be in a language of the seeds.")
    lengths: float = Field(
        default=3.0, ge=1, description="How many times shorter or longer than any seed a text may be."
    )


class Problem(Frozen):
    """What is wrong with something that was made: a word, and what was seen."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Ways:
    """What the seeds have in common. `labels`: the few answers that there are; `keys`: those of answers in JSON, the
    ones that all have and the ones that any has; empty where answers are free."""

    labels: frozenset[str]
    keys: tuple[frozenset[str], frozenset[str]] | None
    languages: frozenset[str]
    questions: tuple[int, int]
    answers: tuple[int, int]


def ways_of(seeds: Sequence[Chat], config: Config) -> Ways:
    """Learn from the seeds what an example looks like."""
    factor = config.lengths
    return Ways(
        labels=frozenset(labels(seeds)),
        keys=_keys(seeds),
        languages=frozenset(filter(None, map(_language, seeds))) if config.language else frozenset(),
        questions=_range([len(question_of(seed)) for seed in seeds], factor),
        answers=_range([len(answer_of(seed)) for seed in seeds], factor),
    )


def problems(example: Made, ways: Ways) -> tuple[Problem, ...]:
    """What is wrong with an example by itself."""
    found = [_form(made_answer(example), ways), _language_problem(example, ways)]
    found += _length("question", question_of(example), ways.questions)
    found += _length("answer", made_answer(example), ways.answers)
    return tuple(filter(None, found))


class Known:
    """All examples so far, seeds and made ones: what one more is compared with.

    Args:
        recipe: says which texts must not be met twice, and how like its own seed an example may be.
        threshold: the least nearness of duplicates.
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[Chat], threshold: float) -> None:
        import numpy as np

        from sartor.data import near

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


def made_answer(example: Made) -> str:
    """The answer that was made: of a pair the worse one, since the better one is the seed's."""
    return example.rejected.content if isinstance(example, Pair) else answer_of(example)


def alike(one: str, other: str) -> float:
    """What two texts have in common: the Jaccard index of their runs of three characters, 0 to 1."""
    ours, theirs = _runs(one), _runs(other)
    return len(ours & theirs) / len(ours | theirs)


@lru_cache(maxsize=4096)
def _runs(text: str) -> frozenset[str]:
    plain = " ".join(text.casefold().split())
    return frozenset(plain[start : start + _RUN] for start in range(max(1, len(plain) - _RUN + 1)))


def _form(answer: str, ways: Ways) -> Problem | None:
    if ways.labels and answer.strip() not in ways.labels:
        known = ", ".join(sorted(ways.labels))
        return Problem(reason="label", detail=f"saw `{shorten(answer)}`, expected one of {shorten(known)}")
    if ways.keys is None:
        return None
    keys = _object_keys(answer)
    always, ever = ways.keys
    if keys is None or not always <= keys <= ever:
        seen = f"the keys {', '.join(sorted(keys))}" if keys is not None else f"`{shorten(answer)}`"
        return Problem(reason="form", detail=f"saw {shorten(seen)}, expected JSON with {', '.join(sorted(always))}")
    return None


def _keys(seeds: Sequence[Chat]) -> tuple[frozenset[str], frozenset[str]] | None:
    """The keys of the seeds' answers, if each of them is a JSON object."""
    found = [_object_keys(answer_of(seed)) for seed in seeds]
    objects = [keys for keys in found if keys is not None]
    if not objects or len(objects) < len(found):
        return None
    return frozenset.intersection(*objects), frozenset.union(*objects)


def _object_keys(text: str) -> frozenset[str] | None:
    if not text.lstrip().startswith("{") or strict.too_deep(text.encode()):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return frozenset(value) if isinstance(value, dict) else None


def _language(example: Made) -> str:
    return language_of(f"{question_of(example)}\n{made_answer(example)}")


def _language_problem(example: Made, ways: Ways) -> Problem | None:
    language = _language(example) if ways.languages else ""
    if not language or language in ways.languages:
        return None
    return Problem(reason="language", detail=f"saw {language}, expected {', '.join(sorted(ways.languages))}")


def _length(part: str, text: str, allowed: tuple[int, int]) -> Iterable[Problem]:
    least, most = allowed
    if len(text) < least:
        yield Problem(reason="too_short", detail=f"the {part} has {len(text)} characters, expected {least} or more")
    if len(text) > most:
        yield Problem(reason="too_long", detail=f"the {part} has {len(text)} characters, expected {most} or fewer")


def _range(lengths: Sequence[int], factor: float) -> tuple[int, int]:
    return int(min(lengths) / factor), max(_ALWAYS_ALLOWED, int(max(lengths) * factor))
