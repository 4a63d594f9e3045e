"""Texts as sparse vectors: words, pairs of words and runs of characters, hashed, weighted by rarity (tf-idf).

Shape suffixes: N texts · F features that occur, of all texts one after the other · C classes · W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sartor.data.near.shingles import CHARACTERS, Ragged, runs_of, shingled, slices, units_of

#: Columns: some ten thousand short texts have a few hundred thousand features, of which the rare ones may share one.
COLUMNS = 2**16
#: Of a longer text the beginning counts, in characters: what it is about shows early, and memory is bounded.
LONGEST = 4000
#: Columns of the matrix that texts are compared with each other by: chance moves a cosine by 0.03.
WIDTH = 1024


@dataclass(frozen=True, slots=True)
class Features:
    """Rows of length 1: `columns` names the column of each value; both are ragged over the same offsets."""

    columns: Ragged
    values_F: np.ndarray

    def __len__(self) -> int:
        return len(self.columns.counts)

    @property
    def owners_F(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), self.columns.counts)

    def dense(self, rows: np.ndarray, width: int = WIDTH) -> np.ndarray:
        """Some rows as a matrix of fewer columns, onto which columns fall with a sign, so that chance cancels out."""
        part = self.columns.taken(rows)
        places = np.repeat(np.arange(len(rows)), part.counts) * width + part.values % width
        signs = np.where(part.values // width % 2, 1.0, -1.0)
        values_F = Ragged(self.values_F, self.columns.offsets).taken(rows).values
        flat = np.bincount(places, signs * values_F, minlength=len(rows) * width)
        matrix_NW = flat.reshape(len(rows), width).astype(np.float32)
        return np.asarray(matrix_NW / np.maximum(np.linalg.norm(matrix_NW, axis=1, keepdims=True), 1e-9))


def features_of(texts: Sequence[str]) -> Features:
    """The features of texts, of which there is one at least. A text without any character has none."""
    parts = [_counted([text[:LONGEST] for text in texts[part]], part.start) for part in slices(texts)]
    owners_F, columns_F, counts = (np.concatenate([part[place] for part in parts]) for place in range(3))
    rarity_W = np.log((1.0 + len(texts)) / (1.0 + np.bincount(columns_F, minlength=COLUMNS))) + 1.0
    values_F = (1.0 + np.log(counts)) * rarity_W[columns_F]
    norms_N = np.sqrt(np.bincount(owners_F, values_F**2, minlength=len(texts)))
    offsets = np.searchsorted(owners_F, np.arange(len(texts) + 1))
    return Features(Ragged(columns_F, offsets), (values_F / norms_N[owners_F]).astype(np.float32))


def _counted(texts: Sequence[str], start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text, column and number of each feature of a batch, text by text."""
    units = units_of(texts)
    singles = runs_of(units.words, np.ones(len(texts), np.int64))
    pairs = runs_of(units.words, np.full(len(texts), 2))
    runs = shingled(units.characters(np.arange(len(texts))), CHARACTERS - 1)
    owners = [np.repeat(np.arange(len(texts)), part.counts) for part in (singles, pairs, runs)]
    hashes = np.concatenate([singles.values, pairs.values, runs.values]) % np.uint64(COLUMNS)
    codes, counts = np.unique(np.concatenate(owners) * COLUMNS + hashes.astype(np.int64), return_counts=True)
    return codes // COLUMNS + start, codes % COLUMNS, counts
