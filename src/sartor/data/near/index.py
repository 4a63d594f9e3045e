"""One text after the other against those before it; and the groups of near ones among many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sartor.data.near.minhash import bands_for, keys_of
from sartor.data.near.shelf import Column, Shelf, jaccard, sketched, twins
from sartor.data.near.shingles import SCALES, Ragged, Scale, frame_of, mixed, slices, units_of, without

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
class Pairs:
    """Near pairs: the row of a batch, the number of an earlier text, and how near. N of each."""

    rows_N: np.ndarray
    numbers_N: np.ndarray
    likeness_N: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        return zip(self.rows_N.tolist(), self.numbers_N.tolist(), self.likeness_N.tolist(), strict=True)

    def where(self, chosen_N: np.ndarray) -> Pairs:
        return Pairs(self.rows_N[chosen_N], self.numbers_N[chosen_N], self.likeness_N[chosen_N])

    @classmethod
    def together(cls, parts: Sequence[Pairs]) -> Pairs:
        """All of them, by row, the best of each row first. Of a pair that is there twice, the better one."""
        rows_N = np.concatenate([np.zeros(0, np.int64), *(part.rows_N for part in parts)])
        numbers_N = np.concatenate([np.zeros(0, np.int64), *(part.numbers_N for part in parts)])
        likeness_N = np.concatenate([np.zeros(0), *(part.likeness_N for part in parts)])
        pairs = cls(rows_N, numbers_N, likeness_N).where(np.lexsort((-likeness_N, numbers_N, rows_N)))
        again = (np.diff(pairs.rows_N, prepend=-1) == 0) & (np.diff(pairs.numbers_N, prepend=-1) == 0)
        pairs = pairs.where(np.flatnonzero(~again))
        return pairs.where(np.lexsort((pairs.numbers_N, -pairs.likeness_N, pairs.rows_N)))


@dataclass(frozen=True, slots=True)
class _Part:
    """What a look at a batch found on one scale: which of its texts it is about, their sets, keys and tags."""

    rows: np.ndarray
    sets: Ragged
    keys_DB: np.ndarray
    tags: np.ndarray

    def first(self) -> np.ndarray:
        """For each text the first one with the same set and tag."""
        sums = np.add.reduceat(mixed(self.sets.values.astype(np.uint64)), self.sets.offsets[:-1])
        codes = mixed(sums ^ mixed(self.tags.astype(np.uint64)))
        _, places, inverse = np.unique(codes, return_index=True, return_inverse=True)
        return np.asarray(places[inverse])


@dataclass(frozen=True, slots=True)
class Look:
    """A batch of texts against those of the index, by row, the best of each row first."""

    pairs: Pairs
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
        found: list[Pairs] = []
        for scale in SCALES:
            if not len(rows := units.rows(scale)):
                continue
            sets = units.shingles(scale)
            if scale in self._frame:
                sets = without(sets, self._frame[scale])
            parts[scale] = _Part(rows, sketched(sets), keys_of(sets, self._bands), tags_D[rows])
            found += self._near(self._shelves[scale], parts[scale], among_themselves)
        return Look(Pairs.together(found), len(texts), tags_D, parts)

    def take(self, look: Look, keep_D: np.ndarray) -> None:
        """Keep some texts of a batch. The others have their numbers too, and are never met again."""
        start = len(self)
        self._tags.append(look.tags)
        for scale, part in look.parts.items():
            kept = np.flatnonzero(keep_D[part.rows])
            if len(kept):
                self._shelves[scale].put(part.rows[kept] + start, part.sets.taken(kept), part.keys_DB[kept])

    def _near(self, shelf: Shelf, part: _Part, among_themselves: bool) -> Iterator[Pairs]:
        """Pairs on one scale that are near indeed. Of texts with one set the first stands for all."""
        first = part.first()
        own = np.flatnonzero(first == np.arange(len(first)))
        texts, places = shelf.candidates(part.keys_DB[own])
        texts = own[texts]
        numbers = shelf.numbers.values[places]
        yield from self._judged(part, first, texts, numbers, shelf.sets(places), self._tags.values[numbers])
        if among_themselves:
            texts, earlier = twins(part.keys_DB[own])
            texts, earlier = own[texts], own[earlier]
            numbers = part.rows[earlier] + len(self)
            yield from self._judged(part, first, texts, numbers, part.sets.taken(earlier), part.tags[earlier])
            copies = np.flatnonzero(first != np.arange(len(first)))
            yield Pairs(part.rows[copies], part.rows[first[copies]] + len(self), np.ones(len(copies)))

    def _judged(
        self, part: _Part, first: np.ndarray, texts: np.ndarray, numbers: np.ndarray, others: Ragged, tags: np.ndarray
    ) -> Iterator[Pairs]:
        """Those candidates that are near, for the texts themselves and for all that have their sets."""
        if not len(texts):
            return
        likeness = jaccard(part.sets.taken(texts), others)
        near = np.flatnonzero((likeness >= self._threshold) & (part.tags[texts] == tags))
        by_text = near[np.argsort(texts[near], kind="stable")]
        offsets = np.searchsorted(texts[by_text], np.arange(len(first) + 1))
        shared = Ragged(by_text, offsets).taken(first)
        rows = np.repeat(part.rows, shared.counts)
        yield Pairs(rows, numbers[shared.values], likeness[shared.values])

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
        keep_D[look.pairs.rows_N[look.pairs.likeness_N == 1.0]] = False  # who is near to one is near to its twin
        for row, number, _ in look.pairs:
            if first[start + row] != first[number]:
                ours, theirs = root(first, start + row), root(first, number)
                first[max(ours, theirs)] = min(ours, theirs)
        index.take(look, keep_D)
    return [root(first, place) for place in range(len(texts))]


def root(first: list[int], place: int) -> int:
    """The first of a group; the way there is halved for the next one who asks."""
    while first[place] != place:
        first[place] = first[first[place]]
        place = first[place]
    return place
