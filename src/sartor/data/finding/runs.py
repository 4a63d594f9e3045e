"""Runs of words that some texts have, to be met again in others: how the overlap with a benchmark is found.

A text of `WORDS` words or more is known by each of its runs of so many (Brown et al. 2020, appendix C); a shorter one
by all its words together, down to `FEWEST`: fewer words in a row are met everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sartor.data.near.shingles import runs_of, slices, units_of

#: Words of a run, as in GPT-3's report.
WORDS = 13
#: Words of the shortest text that is looked for, as there.
FEWEST = 8
#: Different texts that may have a run before it counts as nobody's own, as there.
MANY = 10


class Runs:
    """The runs of some texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        hashes, owners, widths = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], set()
        for part in slices(texts):
            words = units_of(texts[part]).words
            lengths = np.minimum(words.counts, WORDS)
            rows = np.flatnonzero(lengths >= FEWEST)
            runs = runs_of(words.taken(rows), lengths[rows])
            hashes.append(runs.values)
            owners.append(np.repeat(rows + part.start, runs.counts))
            widths |= set(lengths[rows].tolist())
        self._hashes, self._owners = np.concatenate(hashes), np.concatenate(owners)
        self._widths = sorted(widths)
        self._keep(np.lexsort((self._owners, self._hashes)))

    def forget_frames(self, texts: Sequence[str]) -> None:
        """Leave out the runs that more than `MANY` different ones of these texts have: they are a prompt's frame."""
        holders = [np.unique(pairs, axis=0)[:, 1] for pairs in self._met(list(dict.fromkeys(texts)))]
        hashes, counts = np.unique(np.concatenate([self._hashes[:0], *holders]), return_counts=True)
        self._keep(np.flatnonzero(~np.isin(self._hashes, hashes[counts > MANY])))

    def find(self, texts: Sequence[str]) -> list[int | None]:
        """For each text the first of the known texts that it has a run of, or None."""
        found: dict[int, int] = {}
        for pairs in self._met(texts):
            owners = self._owners[np.searchsorted(self._hashes, pairs[:, 1])]
            for row, owner in zip(pairs[:, 0].tolist(), owners.tolist(), strict=True):
                found[row] = min(owner, found.get(row, owner))
        return [found.get(row) for row in range(len(texts))]

    def _met(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Pairs (text, hash) of runs that are known, some at a time; all of one text and width together."""
        for part in slices(texts) if len(self._hashes) else ():
            words = units_of(texts[part]).words
            for width in self._widths:
                runs = runs_of(words, np.full(len(words.counts), width))
                places = np.minimum(np.searchsorted(self._hashes, runs.values), len(self._hashes) - 1)
                hit = np.flatnonzero(self._hashes[places] == runs.values)
                rows = np.repeat(np.arange(part.start, part.stop, dtype=np.uint64), runs.counts)
                yield np.stack((rows[hit], runs.values[hit]), axis=1)

    def _keep(self, places: np.ndarray) -> None:
        self._hashes, self._owners = self._hashes[places], self._owners[places]
