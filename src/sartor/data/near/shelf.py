"""The texts that later ones are compared with, on one scale: their sets, and a hash table from bands to texts.

A text costs 4 bytes a shingle, of which the 1,024 least are kept at most, and 12 to 16 bytes a band: with 20 bands and
80 shingles 600 bytes. Everything is a few growing arrays, and all work is on whole batches.

Shape suffixes: D texts of a batch · B bands · N pairs of (text of the batch, text of the shelf).
"""

from __future__ import annotations

import numpy as np

from sartor.data.near.shingles import Ragged

#: Shingles of a text that are kept: the least ones of a larger set are a fair sample of it (Broder's bottom sketch),
#: whose Jaccard index is within 0.03 of the true one in 95 of 100 cases.
SKETCH = 1024
#: Texts that are looked at in one place of the table, the newest first: a place where thousands meet is a frame that
#: they share, and comparing them all would never end.
CHAIN = 32
#: Candidates of one text that are compared: so many with the most bands in common, and so many of the earliest, which
#: among many copies with a word changed are those that were kept.
CANDIDATES = 16
_NONE = -1


class Column:
    """An array that grows at its end. Room is doubled; what is not filled takes no memory."""

    def __init__(self, dtype: type, width: int = 1) -> None:
        self._room: np.ndarray = np.empty((64, width), dtype)
        self._length = 0

    def append(self, values: np.ndarray) -> None:
        end = self._length + len(values)
        if end > len(self._room):
            room = np.empty((max(end, 2 * len(self._room)), self._room.shape[1]), self._room.dtype)
            room[: self._length] = self._room[: self._length]
            self._room = room
        self._room[self._length : end] = values.reshape(len(values), self._room.shape[1])
        self._length = end

    @property
    def rows(self) -> np.ndarray:
        return self._room[: self._length]

    @property
    def num_bytes(self) -> int:
        """Bytes that are filled."""
        return self.rows.nbytes

    @property
    def values(self) -> np.ndarray:
        """Of a column of width 1."""
        return self.rows[:, 0]


class Shelf:
    """Texts by their place on the shelf, from 0; `numbers` are what the index calls them."""

    def __init__(self, num_bands: int) -> None:
        self.numbers = Column(np.int64)
        self._sketch = Column(np.uint32)
        self._offsets = Column(np.int64)
        self._offsets.append(np.zeros(1, np.int64))
        self._marks = Column(np.uint32, num_bands)
        self._next = Column(np.int32, num_bands)
        self._heads = np.full((num_bands, 64), _NONE, np.int32)

    def __len__(self) -> int:
        return len(self.numbers.rows)

    @property
    def num_bytes(self) -> int:
        """Bytes of all texts here."""
        columns = (self.numbers, self._sketch, self._offsets, self._marks, self._next)
        return self._heads.nbytes + sum(column.num_bytes for column in columns)

    def candidates(self, keys_DB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a text of the batch and one of the shelf that share a band."""
        bands_B = np.arange(keys_DB.shape[1])
        held = self._heads[bands_B, self._slots(keys_DB)]
        texts, bands = np.nonzero(held != _NONE)
        places, marks = held[texts, bands], _marks(keys_DB)[texts, bands]
        found: list[np.ndarray] = []
        for _ in range(CHAIN):
            if not len(texts):
                break
            same = self._marks.rows[places, bands] == marks
            found.append(texts[same].astype(np.int64) << 32 | places[same])
            places = self._next.rows[places, bands]
            on = places != _NONE
            texts, bands, places, marks = texts[on], bands[on], places[on], marks[on]
        return most_shared(np.concatenate(found) if found else np.zeros(0, np.int64))

    def sets(self, places: np.ndarray) -> Ragged:
        """What is kept of the sets of some texts."""
        return Ragged(self._sketch.values, self._offsets.values).taken(places)

    def put(self, numbers: np.ndarray, sets: Ragged, keys_DB: np.ndarray) -> None:
        """Texts that later ones are compared with."""
        start = len(self)
        self.numbers.append(numbers)
        self._sketch.append(sets.values)
        self._offsets.append(self._offsets.values[-1] + sets.offsets[1:])
        self._marks.append(_marks(keys_DB))
        self._next.append(np.full(keys_DB.shape, _NONE, np.int32))
        if len(self) > self._heads.shape[1]:
            self._rebuild()
        else:
            self._link(start, self._slots(keys_DB))

    def _link(self, start: int, slots_DB: np.ndarray) -> None:
        """Hang texts into the table, band by band. Those of one slot follow each other, the newest first."""
        places = np.arange(start, start + len(slots_DB), dtype=np.int32)
        following = self._next.rows
        for band, slots_D in enumerate(slots_DB.T):
            order = np.argsort(slots_D, kind="stable")
            slots, texts = slots_D[order], places[order]
            first = np.ones(len(slots), bool)
            np.not_equal(slots[1:], slots[:-1], out=first[1:])
            older = np.where(first, self._heads[band, slots], np.roll(texts, 1))
            following[texts, band] = older
            last = np.append(first[1:], True)[: len(slots)]
            self._heads[band, slots[last]] = texts[last]

    def _rebuild(self) -> None:
        """A table of twice the size. A slot comes from the mark alone, so the keys need not be kept."""
        size = self._heads.shape[1]
        while size < len(self):
            size *= 2
        self._heads = np.full((self._heads.shape[0], size), _NONE, np.int32)
        self._link(0, self._marks.rows & np.uint32(size - 1))

    def _slots(self, keys_DB: np.ndarray) -> np.ndarray:
        return _marks(keys_DB) & np.uint32(self._heads.shape[1] - 1)


def twins(keys_DB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of texts of one batch that share a band: (later, earlier). Of many in one band, the earliest count."""
    found: list[np.ndarray] = []
    for keys_D in keys_DB.T:
        order = np.argsort(keys_D, kind="stable")
        keys = keys_D[order]
        starts = np.searchsorted(keys, keys)
        behind = np.arange(len(keys)) - starts
        for step in range(min(CHAIN, int(behind.max(initial=0)))):
            later = np.flatnonzero(behind > step)
            found.append(order[later] << 32 | order[starts[later] + step])
    return most_shared(np.concatenate(found) if found else np.zeros(0, np.int64))


def most_shared(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From (text << 32 | other), once for each band in common, to the pairs worth comparing."""
    pairs, shared = np.unique(codes, return_counts=True)
    texts = pairs >> 32
    rank = np.arange(len(texts)) - np.searchsorted(texts, texts)
    order = np.lexsort((pairs, -shared, texts))
    chosen = np.union1d(order[rank < CANDIDATES], np.flatnonzero(rank < CANDIDATES))
    return texts[chosen], pairs[chosen] & 0xFFFFFFFF


def sketched(sets: Ragged) -> Ragged:
    """The least shingles of each set."""
    counts = np.minimum(sets.counts, SKETCH)
    if (counts == sets.counts).all():
        return sets
    rank = np.arange(len(sets.values)) - np.repeat(sets.offsets[:-1], sets.counts)
    return Ragged(sets.values[rank < SKETCH], np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))))


def jaccard(left: Ragged, right: Ragged) -> np.ndarray:
    """The Jaccard index of each pair of sets (N). Of sets of which only the least shingles are kept, an estimate.

    What lies above the largest shingle of a cut set is not compared, in either.
    """
    num_pairs = len(left.counts)
    ceiling = np.full(num_pairs, 2**32 - 1, np.uint32)
    for side in (left, right):
        cut = np.flatnonzero(side.counts == SKETCH)
        ceiling[cut] = np.minimum(ceiling[cut], side.values[side.offsets[1:][cut] - 1])
    codes, counts = [], []
    for side in (left, right):
        owners = np.repeat(np.arange(num_pairs, dtype=np.int64), side.counts)
        low = side.values <= ceiling[owners]
        codes.append(owners[low] << 32 | side.values[low])
        counts.append(np.bincount(owners[low], minlength=num_pairs))
    both = np.sort(np.concatenate(codes), kind="stable")  # two ascending halves: merged, not sorted
    common = np.bincount(both[1:][both[1:] == both[:-1]] >> 32, minlength=num_pairs)
    return np.asarray(common / np.maximum(counts[0] + counts[1] - common, 1))


def _marks(keys: np.ndarray) -> np.ndarray:
    return keys.astype(np.uint32)
