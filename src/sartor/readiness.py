"""Readiness: the questions of a decision to fine-tune, answered from the data as far as data can answer them.

Each answer has a grade, the number that decided it and, where it is not good, what to do. What no data can say (is
it the tone that must change, or is knowledge missing? who keeps the set up to date?) is not graded here.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from sartor.data.clean.texts import answer_of, question_of
from sartor.data.curve import Curve, learning_curve
from sartor.data.prepare import Prepared
from sartor.data.split import labels
from sartor.types import Chat, Example, Frozen

Grade = Literal["good", "fair", "poor", "unknown"]

#: Examples of a free answer, and of each label: "enough" of most reports on one task; below "few" prompting wins.
ENOUGH, FEW = 500, 50
ENOUGH_OF_A_LABEL, FEW_OF_A_LABEL = 50, 10
#: Evenness of labels (entropy over its highest value): 0.9 is about one label five times as frequent as the others.
EVEN, UNEVEN = 0.9, 0.7
#: Share of the context that the longest hundredth may fill.
ROOMY, FULL = 0.5, 0.9
#: Share of questions that are asked only once; share of pairs of words that do not repeat.
VARIED, UNIFORM = 0.95, 0.8
#: Share of questions asked again that get one answer.
AGREED, DISPUTED = 0.98, 0.9
#: Share of answers that hold a name or a number of their own.
FACTUAL = 0.5
#: What half as much data again cost in accuracy, at which more is worth its price.
STEEP, FLAT = 0.03, 0.01

#: Share of examples of whose length one speaks: a few giants decide the memory, and nothing else.
COVERED = 0.99

_FACT = re.compile(r"\b(?:\d[\d.,]*\d|[A-Z][a-z]{3,})\b")


class Finding(Frozen):
    """One question, its answer in plain words, and what to do about it."""

    code: str
    question: str
    grade: Grade
    answer: str
    advice: str = ""


def readiness(prepared: Prepared, *, context: int) -> tuple[Finding, ...]:
    """The findings on prepared data, over its training split.

    Args:
        context: the longest sequence of the base, in tokens.
    """
    train = [item.example for item in prepared.train]
    if not train:
        return ()
    names = labels(train)
    found = [
        _enough(train, names),
        _balance(train, names),
        _room(sorted(item.length for item in prepared.everything), context),
        _variety(train),
        _agreement(train),
        _facts(train, names),
        _more(learning_curve(train, names) if names else None),
    ]
    return tuple(finding for finding in found if finding)


def _enough(train: Sequence[Example], names: Sequence[str]) -> Finding:
    if names:
        rarest = min(Counter(answer_of(example).strip() for example in train).values())
        return Finding(
            code="enough_examples",
            question="Are there enough examples?",
            grade=_grade(rarest, ENOUGH_OF_A_LABEL, FEW_OF_A_LABEL),
            answer=f"{len(train):,} examples of {len(names)} labels, {rarest:,} of the rarest",
            advice="" if rarest >= ENOUGH_OF_A_LABEL else f"bring {ENOUGH_OF_A_LABEL} of each label",
        )
    return Finding(
        code="enough_examples",
        question="Are there enough examples?",
        grade=_grade(len(train), ENOUGH, FEW),
        answer=f"{len(train):,} examples with free answers",
        advice="" if len(train) >= ENOUGH else f"{ENOUGH} often suffice for one task; `sartor data augment` makes more",
    )


def _balance(train: Sequence[Example], names: Sequence[str]) -> Finding | None:
    if not names:
        return None
    counts = Counter(answer_of(example).strip() for example in train)
    shares = [count / counts.total() for count in counts.values()]
    evenness = -sum(share * math.log(share) for share in shares) / math.log(len(shares))
    (most, top), rarest = counts.most_common(1)[0], counts.most_common()[-1]
    return Finding(
        code="label_balance",
        question="Are the labels in balance?",
        grade=_grade(evenness, EVEN, UNEVEN),
        answer=f"{most!r} is {top / counts.total():.1%} of all, {rarest[0]!r} {rarest[1] / counts.total():.1%}",
        advice="" if evenness >= EVEN else "bring more of the rare ones; always answering the frequent one scores high",
    )


def _room(lengths: Sequence[int], context: int) -> Finding:
    long = covering(lengths)
    share = long / context
    return Finding(
        code="room",
        question="Do the examples fit the model?",
        grade=_grade(-share, -ROOMY, -FULL),
        answer=f"99 % are within {long:,} tokens, {share:.0%} of the {context:,} that the base takes",
        advice="" if share <= ROOMY else "shorten the questions, or choose a base with a longer context",
    )


def covering(lengths: Sequence[int]) -> int:
    """The length within which 99 % of them are; they are in ascending order."""
    return lengths[min(len(lengths) - 1, math.ceil(COVERED * len(lengths)) - 1)]


def _variety(train: Sequence[Example]) -> Finding:
    questions = [_plain(question_of(example) or answer_of(example)) for example in train]
    different = len(set(questions)) / len(questions)
    pairs = Counter(pair for text in questions for pair in _pairs(text))
    new = len(pairs) / max(1, pairs.total())
    return Finding(
        code="variety",
        question="Are the questions varied?",
        grade=_grade(different, VARIED, UNIFORM),
        answer=f"{different:.0%} of the questions are different; {new:.0%} of their pairs of words are new",
        advice=""
        if different >= VARIED
        else "`data.clean: [exact_duplicates, near_duplicates]`, and more kinds of questions",
    )


def _agreement(train: Sequence[Example]) -> Finding | None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        if isinstance(example, Chat):
            answers[_plain(question_of(example))][_plain(example.target)] += 1
    again = [counts for counts in answers.values() if counts.total() > 1]
    if not again:
        return None
    agreed = sum(len(counts) == 1 for counts in again) / len(again)
    return Finding(
        code="agreement",
        question="Do equal questions have equal answers?",
        grade=_grade(agreed, AGREED, DISPUTED),
        answer=f"{len(again):,} questions are asked more than once; {agreed:.0%} of them get one answer",
        advice=""
        if agreed >= AGREED
        else "no model can be right both times: `data.clean: [contradictions]` names them",
    )


def _facts(train: Sequence[Example], names: Sequence[str]) -> Finding | None:
    chats = [] if names else [example for example in train if isinstance(example, Chat)]
    if not chats:
        return None
    facts = [set(_FACT.findall(example.target)) - set(_FACT.findall(question_of(example))) for example in chats]
    known = Counter(fact for own in facts for fact in own)
    share = sum(any(known[fact] == 1 for fact in own) for own in facts) / len(chats)
    return Finding(
        code="facts",
        question="Is it knowledge that is missing, or manner?",
        grade="fair" if share > FACTUAL else "good",
        answer=f"{share:.0%} of the answers hold a name or a number that is in no question and no other answer",
        advice="such facts are learned badly: give them with the question, by retrieval" if share > FACTUAL else "",
    )


def _more(curve: Curve | None) -> Finding:
    question = "Would more data help?"
    if curve is None:
        return Finding(
            code="more_data",
            question=question,
            grade="unknown",
            answer="free answers cannot be foretold without the model",
            advice="the proof says how many examples it would take, once something was tuned",
        )
    gain = curve.scores[-1] - curve.scores[-2]
    steps = ", ".join(f"{score:.0%} with {count:,}" for count, score in zip(curve.counts, curve.scores, strict=True))
    advice = "double the data before anything else" if gain >= STEEP else "a little: other things may matter more"
    return Finding(
        code="more_data",
        question=question,
        grade=_grade(-gain, -FLAT, -STEEP),
        answer=f"a plain word-count classifier reaches {steps}",
        advice="" if gain < FLAT else advice,
    )


def _grade(value: float, good: float, poor: float) -> Grade:
    return "good" if value >= good else "fair" if value >= poor else "poor"


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    words = text.split()
    return pairwise(words)
