"""What is looked at in an example by itself: form, language and length, as the seeds have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from sartor.augment import Made
from sartor.augment.turns import answer_of, question_of
from sartor.data.finding.languages import language_of
from sartor.formats import strict
from sartor.formats.fields import shorten
from sartor.types import Chat, Frozen, Pair

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
    from sartor.data.split import labels  # numpy, which whoever only reads settings does without

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


def made_answer(example: Made) -> str:
    """The answer that was made: of a pair the worse one, since the better one is the seed's."""
    return example.rejected.content if isinstance(example, Pair) else answer_of(example)


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
