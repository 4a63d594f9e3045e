"""Which answers the report shows side by side: the first of each kind, the losses always among them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from sartor.proof import Item
from sartor.report import words
from sartor.types import Json

SHOWN = 12  # items on the page: enough to judge by, few enough to read
QUOTA = {"up": 5, "down": 3, "right": 2, "short": 2}
QUOTA_ALONE = {"right": 5, "short": 7}  # without a tuned arm
REFILL = ("down", "up", "short", "right")  # who gets the places that another kind leaves empty
LONGEST_REQUEST, LONGEST_ANSWER = 1500, 1000  # characters; keeps the page below 400 kB whatever a model writes
COLLAPSED_FROM = 280  # characters of a request that is folded away
LONGEST_TEASER = 100  # characters

_TITLES = {
    "up": ("Better after tuning", "The tuned answer scores higher."),
    "down": ("Worse after tuning", "The tuned answer scores lower. These are the losses: tuning is not free."),
    "right": ("Right both times", "Tuning was not needed here, and did no harm."),
    "short": ("Not right either time", "Both answers score the same, and neither is right: what is still to learn."),
}
_TITLES_ALONE = {
    "right": ("Right without tuning", "What the untuned model already does."),
    "short": ("Not right without tuning", "What tuning would have to bring."),
}


@dataclass(frozen=True, slots=True)
class Passage:
    """Foreign text; `cut` characters were left off."""

    text: str
    cut: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the request."""

    role: str
    passage: Passage


@dataclass(frozen=True, slots=True)
class Answer:
    """One arm's answer: `mark` is right, wrong or partly; `note` says what the metric or the sampler said of it."""

    arm: str
    passage: Passage
    mark: str
    score: float
    note: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One item with the answers of one arm or of two. `teaser` is set when the request is long: fold it away."""

    item: str
    turns: tuple[Turn, ...]
    teaser: str
    expected: Passage
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Items of one kind: `total` there are, `pairs` are shown."""

    kind: str
    title: str
    explanation: str
    total: int
    pairs: tuple[Pair, ...]


def opening(items: Sequence[Item]) -> Passage | None:
    """The system turn that begins every request, if they all share one: it is shown once, and not with each item."""
    first = {(turn["role"], turn["content"]) for item in items for turn in item.input[:1]}
    if len(items) < 2 or len(first) != 1 or not all(len(item.input) > 1 for item in items):
        return None
    ((role, content),) = first
    return _passage(content, LONGEST_REQUEST) if role in ("system", "developer") else None


def choose(items: Sequence[Item], before: str, after: str | None) -> tuple[Group, ...]:
    """The items to show, by what tuning did to them. Without a tuned arm: what is right and what is not.

    Args:
        before: the best untuned arm. after: the tuned arm, if there is one.
    """
    skip = 1 if opening(items) else 0
    tuned = {item.item: item for item in items if item.arm == after}
    kinds: dict[str, list[tuple[Item, ...]]] = {kind: [] for kind in (_TITLES if after else _TITLES_ALONE)}
    for item in items:
        if item.arm == before and (after is None or item.item in tuned):
            answers = (item,) if after is None else (item, tuned[item.item])
            kinds[_kind(answers)].append(answers)
    shown = _shares({kind: len(found) for kind, found in kinds.items()}, QUOTA if after else QUOTA_ALONE)
    titles = _TITLES if after else _TITLES_ALONE
    return tuple(
        Group(
            kind, *titles[kind], total=len(found), pairs=tuple(_pair(answers, skip) for answers in found[: shown[kind]])
        )
        for kind, found in kinds.items()
    )


def _kind(answers: tuple[Item, ...]) -> str:
    first, last = answers[0].score, answers[-1].score
    if first != last:
        return "up" if last > first else "down"
    return "right" if last >= 1 else "short"


def _shares(available: dict[str, int], quota: dict[str, int]) -> dict[str, int]:
    """How many of each kind: the quota, and then the free places in the order of `REFILL`."""
    shares = {kind: min(quota[kind], number) for kind, number in available.items()}
    for kind in (kind for kind in REFILL if kind in available):
        free = SHOWN - sum(shares.values())
        shares[kind] += min(free, available[kind] - shares[kind])
    return shares


def _pair(answers: tuple[Item, ...], skip: int) -> Pair:
    first = answers[0]
    turns = tuple(_turns(first.input[skip:]))
    long = sum(len(turn.passage.text) for turn in turns) > COLLAPSED_FROM
    return Pair(
        item=first.item,
        turns=turns,
        teaser=_teaser(turns[-1].passage.text) if long else "",
        expected=_passage(first.target, LONGEST_ANSWER),
        answers=tuple(_answer(item) for item in answers),
    )


def _teaser(request: str) -> str:
    """The beginning of a request on one line: whole words, where there are spaces."""
    line = " ".join(request[: 2 * LONGEST_TEASER].split())
    return (textwrap.shorten(line, LONGEST_TEASER, placeholder="") or line[:LONGEST_TEASER]) + " …"


def _turns(messages: Sequence[Json]) -> list[Turn]:
    """The turns of the request; the newest are kept whole first, because they hold the question."""
    room, turns = LONGEST_REQUEST, []
    for turn in reversed(messages):
        text = str(turn.get("content", ""))
        if not text:
            continue
        passage = _passage(text, room)
        turns.append(Turn(role=str(turn.get("role", "")), passage=passage))
        room -= len(passage.text)
        if room <= 0:
            break
    return turns[::-1]


def _answer(item: Item) -> Answer:
    notes = [item.detail[:300]] if item.detail else []
    if item.finish == "length":
        notes.append("stopped at the limit of tokens")
    mark = "right" if item.score >= 1 else "wrong" if item.score <= 0 else "partly"
    return Answer(item.arm, _passage(item.output, LONGEST_ANSWER), mark, item.score, "; ".join(notes))


def _passage(text: str, limit: int) -> Passage:
    return Passage(*words.shortened(text, limit))
