"""Signatures of sets, and the bands of them that near sets are likely to share.

The k-th number of a signature is the least that the k-th permutation makes of a set's shingles: two sets agree in it
with a probability that is their Jaccard index J. A band is a few numbers in a row: with b bands of r numbers, the
probability that two sets agree in all numbers of at least one band is 1 - (1 - Jʳ)ᵇ, an S-curve. Sets that do are
candidates.

Shape suffixes: D texts · P permutations · B bands · S shingles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sartor.data.near.shingles import Ragged, mixed

#: Permutations at most: 128 let the S-curve of any threshold from 0.5 on rise within 0.2 below it.
MOST = 128
#: Numbers of a band at most: by chance alone no two sets agree in more.
LONGEST = 16
#: The least probability with which a pair at the threshold itself is a candidate. Nearer pairs have a higher one.
RECALL = 0.97


@dataclass(frozen=True, slots=True)
class Bands:
    """`num` bands of `rows` numbers."""

    num: int
    rows: int

    @property
    def permutations(self) -> int:
        return self.num * self.rows

    def recall(self, jaccard: float) -> float:
        """The probability that a pair of that Jaccard index is a candidate: the S-curve."""
        return float(1.0 - (1.0 - jaccard**self.rows) ** self.num)


def bands_for(threshold: float) -> Bands:
    """The longest bands that still find pairs at the threshold: the longer, the fewer candidates in vain.

    At 0.7 these are 20 of 5: 97.5 % at 0.7, 99.96 % at 0.8; 4.7 % at 0.3, 0.02 % at 0.1.
    """
    best = Bands(MOST, 1)
    for rows in range(2, LONGEST + 1):
        num = 1 if threshold >= 1.0 else math.ceil(math.log(1.0 - RECALL) / math.log1p(-(threshold**rows)))
        if num * rows <= MOST:
            best = Bands(num, rows)
    return best


def keys_of(sets: Ragged, bands: Bands) -> np.ndarray:
    """A 64-bit key for each band of each text, (D, B). No set may be empty."""
    signature_PD = _signatures(sets, bands.permutations)
    keys_BD = np.zeros((bands.num, signature_PD.shape[1]), np.uint64)
    for row in range(bands.rows):
        keys_BD = mixed(keys_BD + signature_PD[row :: bands.rows])
    return np.ascontiguousarray(keys_BD.T)


def _signatures(sets: Ragged, num: int) -> np.ndarray:
    """(P, D). The permutations are x → a · x + b modulo 2³², a odd, from a fixed seed."""
    starts = sets.offsets[:-1]
    numbers = mixed(np.arange(1, 2 * num + 1, dtype=np.uint64)).astype(np.uint32)
    factors, shifts = numbers[:num] | np.uint32(1), numbers[num:]
    signature_PD = np.empty((num, len(starts)), np.uint32)
    moved_S = np.empty_like(sets.values)
    for place in range(num):
        np.multiply(sets.values, factors[place], out=moved_S)
        np.add(moved_S, shifts[place], out=moved_S)
        np.minimum.reduceat(moved_S, starts, out=signature_PD[place])
    return signature_PD
