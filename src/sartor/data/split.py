"""Split before anything looks: train, dev and test, seeded, stratified where there are labels.

Rows that ask the same thing, or nearly, always stay together (`families.py`), so that nothing in the test split was
seen in training. The order comes from a hash of seed and content, not from places in the file: adding a row moves at
most a few families, those at the edges of the splits and those that it makes larger or smaller. (None at all is
impossible as long as sizes follow shares, with a least and a most.)
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sartor.data.families import families
from sartor.errors import DataError
from sartor.types import Chat, Example, LedgerEntry

TEST_SHARE, DEV_SHARE = 0.15, 0.06
MOST_TEST, MOST_DEV = 500, 100
FEWEST = 12  # below this no split of three parts means anything
LONGEST_LABEL = 64  # characters
#: Share of all examples in one family, from which on it is never held out: the split would have no size of its own.
GIANT = 0.1

Some = TypeVar("Some", bound=Example)


@dataclass(frozen=True, slots=True)
class Split(Generic[Some]):
    """The three parts, and what was dropped from dev and test because it stood there twice."""

    train: tuple[Some, ...]
    dev: tuple[Some, ...]
    test: tuple[Some, ...]
    dropped: tuple[LedgerEntry, ...]


def split(examples: Sequence[Some], *, seed: int, with_dev: bool = True, with_test: bool = True) -> Split[Some]:
    """Split examples by what they ask. A part that the user brings is not taken from here.

    Raises:
        DataError: too few examples to hold any out.
    """
    groups = {key: [examples[place] for place in places] for key, places in families(examples).items()}
    if len(groups) < FEWEST and (with_dev or with_test):
        raise DataError(
            f"{len(examples)} examples, {len(groups)} of them different, are too few to hold any out",
            hint=f"bring at least {FEWEST}; 500 to 1,000 often suffice for one task",
        )
    ordered = _stratified_order(groups, seed)
    num_test = _share(len(ordered), TEST_SHARE, MOST_TEST) if with_test else 0
    num_dev = _share(len(ordered), DEV_SHARE, MOST_DEV) if with_dev else 0
    test, dropped_test = distinct(_members(groups, ordered[:num_test]))
    dev, dropped_dev = distinct(_members(groups, ordered[num_test : num_test + num_dev]))
    train = _members(groups, ordered[num_test + num_dev :])
    position = {id(example): index for index, example in enumerate(examples)}
    return Split(
        train=tuple(sorted(train, key=lambda example: position[id(example)])),
        dev=dev,
        test=test,
        dropped=dropped_test + dropped_dev,
    )


def distinct(examples: Sequence[Some]) -> tuple[tuple[Some, ...], tuple[LedgerEntry, ...]]:
    """The first of each set of exact duplicates: an item answered twice would count twice in the proof."""
    first: dict[str, Some] = {}
    dropped = []
    for example in examples:
        if example.digest in first:
            kept = first[example.digest].id
            dropped.append(_duplicate(example, f"the same as {kept}, held out for evaluation"))
        else:
            first[example.digest] = example
    return tuple(first.values()), tuple(dropped)


def leaks(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[str, str]]:
    """(held-out id, training id) of items that ask the same thing as a training example."""
    seen = {example.prompt_digest: example.id for example in train}
    return [(item.id, seen[item.prompt_digest]) for item in held_out if item.prompt_digest in seen]


def labels(examples: Sequence[Example]) -> tuple[str, ...]:
    """The set of answers, most frequent first, if this is a choice among few short ones; else empty."""
    targets = Counter(example.target.strip() for example in examples if isinstance(example, Chat))
    few = len(targets) <= min(200, max(2, len(examples) // 5))
    short = all(len(target) <= LONGEST_LABEL and "\n" not in target for target in targets)
    if len(targets) < 2 or not few or not short or targets.total() < len(examples):
        return ()
    return tuple(sorted(targets, key=lambda target: (-targets[target], target)))


def _stratified_order(groups: dict[str, list[Some]], seed: int) -> list[str]:
    """Group keys such that every prefix holds each label in proportion; giants come last."""
    classes = labels([members[0] for members in groups.values()])
    strata: dict[str, list[str]] = defaultdict(list)
    for key, members in groups.items():
        first = members[0]
        label = first.target.strip() if classes and isinstance(first, Chat) else ""
        strata[label].append(key)
    giant = max(2, GIANT * sum(map(len, groups.values())))
    place: dict[str, tuple[bool, float, str]] = {}
    for keys in strata.values():
        keys.sort(key=lambda key: _rank(key, seed))
        for index, key in enumerate(keys):
            place[key] = (len(groups[key]) > giant, (index + 0.5) / len(keys), _rank(key, seed))
    return sorted(groups, key=lambda key: place[key])


def _rank(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _share(total: int, share: float, most: int) -> int:
    return min(most, max(round(total * share), min(4, total // 4)))


def _members(groups: dict[str, list[Some]], keys: Sequence[str]) -> list[Some]:
    return [member for key in keys for member in groups[key]]


def _duplicate(example: Example, detail: str) -> LedgerEntry:
    return LedgerEntry(
        action="dropped", file=example.source.file, line=example.source.line, reason="duplicate", detail=detail
    )
