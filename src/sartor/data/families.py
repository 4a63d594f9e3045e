"""Examples that must stay on one side of a split: those that ask the same, nearly the same, or were made of the same.

Nearly the same is what `data.near` finds in the questions, beside what most of them have in common, such as a system
prompt. Made of the same is what `Source.origin` says: a paraphrase of a held-out question would give it away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from sartor.data.clean.texts import question_of, whole_of
from sartor.data.near import BATCH, Index, frame_of, groups, root
from sartor.types import Example


def families(examples: Sequence[Example]) -> dict[str, list[int]]:
    """The places of the examples of each family. A family's key depends on what it holds, not on where it stands."""
    first = list(range(len(examples)))
    for same in _bonds(examples):
        for place in same[1:]:
            one, other = root(first, same[0]), root(first, place)
            first[max(one, other)] = min(one, other)
    members: dict[int, list[int]] = defaultdict(list)
    for place in range(len(examples)):
        members[root(first, place)].append(place)
    return {min(examples[place].prompt_digest for place in places): places for places in members.values()}


def alike(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[str, str]]:
    """(held-out id, training id) of items that ask nearly the same as a training example."""
    if not held_out:
        return []
    asked = list(map(_asked, train))
    index = Index(frame=frame_of(asked))
    for start in range(0, len(asked), BATCH):
        index.add(asked[start : start + BATCH])
    found = []
    for start in range(0, len(held_out), BATCH):
        batch = held_out[start : start + BATCH]
        for item, match in zip(batch, index.find(list(map(_asked, batch))), strict=True):
            if match is not None:
                found.append((item.id, train[match.number].id))
    return found


def _asked(example: Example) -> str:
    return question_of(example) or whole_of(example)


def _bonds(examples: Sequence[Example]) -> Iterable[list[int]]:
    """Places that belong together, for each of the reasons."""
    near = groups(list(map(_asked, examples)))
    reasons: tuple[Iterable[Hashable], ...] = (
        [example.prompt_digest for example in examples],
        near,
        [example.source.origin or example.id for example in examples],
    )
    for keys in reasons:
        together: dict[Hashable, list[int]] = defaultdict(list)
        for place, key in enumerate(keys):
            together[key].append(place)
        yield from together.values()
