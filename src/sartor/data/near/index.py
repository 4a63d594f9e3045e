"""One text after the other against those before it; and the groups of near ones among many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sartor.data.near.minhash import bands_for, keys_of
from sartor.data.near.shelf import Column, Shelf, jaccard, sketched, twins
from sartor.data.near.shingles import SCALES, Ragged, Scale, frame_of, slices, units_of, without

#: How much of their shingles two near texts share. Of 80 runs of three words, 0.7 lets about five words be others.
THRESHOLD = 0.7
#: Texts of which the frame is learnt.
SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier text that one is near to: its number among all that were added, from 0, and how near."""

    number: int
    likeness: float


@dataclass(frozen=True, slots=True)
class _Part:
    """What a look at a batch found on one scale: which of its texts it is about, their sets and keys."""

    rows: np.ndarray
    sets: Ragged
    keys_DB: np.ndarray


@dataclass(frozen=True, slots=True)
class Look:
    """A batch of texts against those of the index: pairs of (row of the batch, number, likeness), the best first."""

    pairs: tuple[tuple[int, int, float], ...]
    num_texts: int
    tags: np.ndarray
    parts: Mapping[Scale, _Part]


class Index:
    """Texts that others are compared with.

    Args:
        threshold: the least Jaccard index of near texts.
        frame: shingles that say nothing, from `frame_of`.
    """

    def __init__(self, threshold: float = THRESHOLD, frame: Mapping[Scale, np.ndarray] | None = None) -> None:
        self._threshold = threshold
        self._bands = bands_for(threshold)
        self._frame = frame or {}
        self._shelves: dict[Scale, Shelf] = {scale: Shelf(self._bands.num) for scale in SCALES}
        self._tags = Column(np.int64)

    def __len__(self) -> int:
        """How many texts were added, kept or not."""
        return len(self._tags.rows)

    @property
    def num_bytes(self) -> int:
        """Memory that the texts take here; they themselves are not held."""
        return self._tags.num_bytes + sum(shelf.num_bytes for shelf in self._shelves.values())

    def add(self, texts: Sequence[str], tags: Sequence[int] = ()) -> list[Match | None]:
        """For each text the nearest earlier one that was kept, or None; then the text itself is kept.

        Args:
            texts: some hundred at a time is best.
            tags: a number for each text: texts with different ones are never near.
        """
        found: list[Match | None] = []
        for part in slices(texts):
            look = self.look(texts[part], tags[part])
            matches = self._resolved(look)
            self.take(look, np.array([match is None for match in matches], bool))
            found += matches
        return found

    def find(self, texts: Sequence[str], tags: Sequence[int] = ()) -> list[Match | None]:
        """For each text the nearest of the index, or None. Nothing is kept."""
        looks = (self.look(texts[part], tags[part], among_themselves=False) for part in slices(texts))
        return [match for look in looks for match in self._resolved(look)]

    def look(self, texts: Sequence[str], tags: Sequence[int] = (), *, among_themselves: bool = True) -> Look:
        """Compare a batch, one of `slices`, with what is there, and its texts with each other."""
        units = units_of(texts)
        tags_D = np.asarray(tags, np.int64) if len(tags) else np.zeros(len(texts), np.int64)
        parts: dict[Scale, _Part] = {}
        pairs: dict[tuple[int, int], float] = {}
        for scale in SCALES:
            if not len(rows := units.rows(scale)):
                continue
            sets = units.shingles(scale)
            if scale in self._frame:
                sets = without(sets, self._frame[scale])
            parts[scale] = _Part(rows, sketched(sets), keys_of(sets, self._bands))
            for row, number, likeness in self._near(scale, parts[scale], tags_D, among_themselves):
                pairs[row, number] = max(likeness, pairs.get((row, number), 0.0))
        found = sorted(((row, number, likeness) for (row, number), likeness in pairs.items()), key=_best_first)
        return Look(tuple(found), len(texts), tags_D, parts)

    def take(self, look: Look, keep_D: np.ndarray) -> None:
        """Keep some texts of a batch. The others have their numbers too, and are never met again."""
        start = len(self)
        self._tags.append(look.tags)
        for scale, part in look.parts.items():
            kept = np.flatnonzero(keep_D[part.rows])
            if len(kept):
                self._shelves[scale].put(part.rows[kept] + start, part.sets.taken(kept), part.keys_DB[kept])

    def _near(self, scale: Scale, part: _Part, tags_D: np.ndarray, inner: bool) -> Iterator[tuple[int, int, float]]:
        """Pairs on one scale that are near indeed."""
        shelf = self._shelves[scale]
        texts, places = shelf.candidates(part.keys_DB)
        likeness = jaccard(part.sets.taken(texts), shelf.sets(places)) if len(texts) else np.zeros(0)
        numbers = shelf.numbers.values[places]
        near = (likeness >= self._threshold) & (self._tags.values[numbers] == tags_D[part.rows[texts]])
        yield from zip(part.rows[texts[near]].tolist(), numbers[near].tolist(), likeness[near].tolist(), strict=True)
        if not inner:
            return
        later, earlier = twins(part.keys_DB)
        likeness = jaccard(part.sets.taken(later), part.sets.taken(earlier)) if len(later) else np.zeros(0)
        later, earlier = part.rows[later], part.rows[earlier]
        near = (likeness >= self._threshold) & (tags_D[later] == tags_D[earlier])
        numbers = earlier + len(self)
        yield from zip(later[near].tolist(), numbers[near].tolist(), likeness[near].tolist(), strict=True)

    def _resolved(self, look: Look) -> list[Match | None]:
        """The best match of each row, in their order: an earlier row that has one itself is no match."""
        start = len(self)
        matches: list[Match | None] = [None] * look.num_texts
        for row, number, likeness in look.pairs:
            kept = number < start or matches[number - start] is None
            if kept and matches[row] is None:
                matches[row] = Match(number, likeness)
        return matches


def groups(
    texts: Sequence[str], *, threshold: float = THRESHOLD, tags: Sequence[int] = (), frame: bool = True
) -> list[int]:
    """For each text the place of the first one of its group. Near texts are in one group, and so are theirs.

    Args:
        texts: all of them.
        threshold: the least Jaccard index of near texts.
        tags: a number for each text: texts with different ones are never near.
        frame: leave out of account what more than a tenth of the texts have in common.
    """
    index = Index(threshold, frame_of(texts[:: max(1, len(texts) // SAMPLE)]) if frame else None)
    first = list(range(len(texts)))
    for part in slices(texts):
        start = part.start
        look = index.look(texts[part], tags[part])
        keep_D = np.ones(look.num_texts, bool)
        for row, number, likeness in look.pairs:
            ours, theirs = _root(first, start + row), _root(first, number)
            first[max(ours, theirs)] = min(ours, theirs)
            keep_D[row] &= likeness < 1.0  # who is near to it is near to its twin
        index.take(look, keep_D)
    return [_root(first, place) for place in range(len(texts))]


def _root(first: list[int], place: int) -> int:
    """The first of a group; the way there is halved for the next one who asks."""
    while first[place] != place:
        first[place] = first[first[place]]
        place = first[place]
    return place


def _best_first(pair: tuple[int, int, float]) -> tuple[int, float, int]:
    row, number, likeness = pair
    return row, -likeness, number
