"""Equal beginnings computed once: a packed batch seen as a forest of runs of tokens.

A hidden state depends on what stands before it and on nothing else, so segments that begin alike (a system prompt, a
few-shot block, a conversation's history) have the same ones there. The backend computes those of the unique tokens and
looks up each supervised position by its place. Autograd adds up the gradients of positions that share a place, so each
counts as often as it occurs, whatever the objective. What follows the last supervised position of a segment influences
nothing, because attention is causal: it gets no place.

Shape suffixes: T tokens of the batch · U unique tokens · S segments · P nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from sartor.types import Batch

SHORTEST = 16  # tokens; a shorter shared run costs the attention one more node, and saves next to nothing
NOWHERE = -1  # the place of a token that is not computed, and the parent of a root


@dataclass(frozen=True, slots=True)
class Folded:
    """A batch whose equal beginnings stand once: a forest of nodes, each a run of tokens, in depth-first order.

    tokens_U int64 · positions_U int64: depth within its sequence · offsets_P1 int32: node p holds the tokens
    offsets[p]..offsets[p + 1] · parents_P int32: the parent node, always smaller; -1 for a root · places_T int64: where
    each of the batch's tokens stands among the unique ones; -1 if it is not computed, which no supervised one is.
    """

    tokens_U: np.ndarray
    positions_U: np.ndarray
    offsets_P1: np.ndarray
    parents_P: np.ndarray
    places_T: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return len(self.tokens_U)

    @property
    def num_trimmed(self) -> int:
        """Tokens of the batch that are not computed because nothing supervised follows them."""
        return int((self.places_T == NOWHERE).sum())

    @property
    def num_shared(self) -> int:
        """Tokens of the batch that are not computed because an equal one already is."""
        return len(self.places_T) - self.num_trimmed - self.num_tokens

    @property
    def sources_U(self) -> np.ndarray:
        """Where each unique token first stands in the batch, int64: takes what is known of all T down to the U."""
        return _sources(self.places_T, self.num_tokens)


@dataclass(frozen=True, slots=True)
class Alphabet:
    """Segments in alphabetical order: those that begin alike are neighbours, and a prefix stands before the whole.

    order: the segment at each place · lengths: its tokens up to the last supervised one · shared: how many of them it
    has in common with the segment one place before (0 for the first).
    """

    order: Sequence[int]
    lengths: Sequence[int]
    shared: Sequence[int]

    def common(self, one: int, other: int) -> int:
        """How many tokens the segments at two places, `one` before `other`, have in common."""
        return min(self.shared[one + 1 : other + 1])

    def only(self, places: Sequence[int]) -> Alphabet:
        """The segments at some places alone, given in ascending order."""
        return Alphabet(
            order=[self.order[place] for place in places],
            lengths=[self.lengths[place] for place in places],
            shared=[0, *(self.common(*pair) for pair in pairwise(places))],
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A node: the positions start..end of its segments. `ends` holds the places in the alphabet that end in a leaf."""

    parent: int
    start: int
    end: int
    ends: range


def fold(batch: Batch, *, shortest: int = SHORTEST) -> Folded:
    """Fold the beginnings that segments have in common, and cut off what follows their last supervised position.

    Segments share a position if token, target and whether it is supervised agree there and at all positions before, so
    that a place has one target. Runs of fewer than `shortest` tokens are not split off. A batch that shares nothing
    gives one root for each segment, in order. At least one token is left, so that there is always a forward.
    """
    alphabet = arrange(batch)
    runs = grow(alphabet, alphabet.order, shortest=shortest)
    offsets_P1 = np.fromiter(accumulate((run.end - run.start for run in runs), initial=0), dtype=np.int32)
    starts = batch.offsets_S1.tolist()
    path = np.empty(max(alphabet.lengths), dtype=np.int64)  # the places from the root down to the run at hand
    places_T = np.full(batch.num_tokens, NOWHERE, dtype=np.int64)
    for run, offset in zip(runs, offsets_P1.tolist(), strict=False):
        path[run.start : run.end] = np.arange(offset, offset + run.end - run.start)
        for place in run.ends:
            start, length = starts[alphabet.order[place]], alphabet.lengths[place]
            places_T[start : start + length] = path[:length]
    sources_U = _sources(places_T, int(offsets_P1[-1]))
    return Folded(
        tokens_U=batch.tokens_T[sources_U],
        positions_U=batch.positions_T[sources_U],
        offsets_P1=offsets_P1,
        parents_P=np.array([run.parent for run in runs], dtype=np.int32),
        places_T=places_T,
    )


def _sources(places_T: np.ndarray, num_tokens: int) -> np.ndarray:
    """The first token of the batch at each place."""
    sources_U = np.empty(num_tokens, dtype=np.int64)
    computed = np.flatnonzero(places_T != NOWHERE)[::-1]
    sources_U[places_T[computed]] = computed  # of several values for one place the last is kept, here the first token
    return sources_U


def num_computed(batch: Batch, *, share: bool, virtual: int = 0) -> int:
    """Tokens that a forward computes of a batch: equal beginnings once if they are shared.

    `virtual` tokens stand before each segment: an equal beginning like any other, so shared from `SHORTEST` on.
    """
    text = fold(batch).num_tokens if share else batch.num_tokens
    return text + virtual * (1 if share and virtual >= SHORTEST else len(batch.rows))


def num_unique(alphabet: Alphabet, *, shortest: int = SHORTEST) -> int:
    """How many tokens `fold` would leave to compute of these segments."""
    return sum(run.end - run.start for run in grow(alphabet, alphabet.order, shortest=shortest))


def arrange(batch: Batch) -> Alphabet:
    """The segments of a batch in alphabetical order; equal ones by row. Nothing here loops over tokens in Python."""
    starts_S, ends_S = batch.offsets_S1[:-1].astype(np.int64), batch.offsets_S1[1:]
    supervised_T = batch.weights_T != 0
    reached_T1 = np.maximum.accumulate(np.append(0, np.where(supervised_T, np.arange(1, batch.num_tokens + 1), 0)))
    lengths_S = np.maximum(reached_T1[ends_S] - starts_S, 0)
    if not lengths_S.any():
        lengths_S[np.argmax(ends_S > starts_S)] = 1
    labels_T3 = np.stack([batch.tokens_T, batch.targets_T, supervised_T.astype(np.int64)], axis=1)
    letters, width = labels_T3.tobytes(), labels_T3.itemsize * labels_T3.shape[1]
    spans = np.stack([starts_S, starts_S + lengths_S], axis=1) * width
    words = [letters[start:end] for start, end in spans.tolist()]
    order = sorted(range(len(words)), key=lambda index: (words[index], batch.rows[index]))
    return Alphabet(
        order=order,
        lengths=lengths_S[order].tolist(),
        shared=[0, *_shared(labels_T3, starts_S[order], lengths_S[order]).tolist()],
    )


def _shared(labels_T3: np.ndarray, starts_S: np.ndarray, lengths_S: np.ndarray) -> np.ndarray:
    """How many labels each segment but the first has in common with the one before it, all pairs at once."""
    shorter = np.minimum(lengths_S[:-1], lengths_S[1:])
    firsts = np.cumsum(shorter) - shorter
    within = np.arange(shorter.sum()) - np.repeat(firsts, shorter)
    one, other = (labels_T3[np.repeat(starts, shorter) + within] for starts in (starts_S[:-1], starts_S[1:]))
    shared: np.ndarray = shorter.copy()
    compared = shorter > 0  # reduceat takes an empty stretch for one of length 1
    if compared.any():
        equal = (one == other).all(axis=1)
        shared[compared] = np.minimum.reduceat(np.where(equal, np.repeat(shorter, shorter), within), firsts[compared])
    return shared


def grow(alphabet: Alphabet, ranks: Sequence[Any], *, shortest: int = SHORTEST) -> list[Run]:
    """The forest over the segments of an alphabet, depth first; `ranks`, one for each place, put siblings in order.

    A segment that is the beginning of the next one ends inside of it and makes no node of its own. A run that segments
    share is split off if it is `shortest` or longer; else each branch keeps it.
    """
    assert shortest > 0
    lengths, shared = alphabet.lengths, alphabet.shared
    leaves = [place for place in range(len(lengths)) if place + 1 == len(lengths) or shared[place + 1] < lengths[place]]
    common = [0, *(alphabet.common(*pair) for pair in pairwise(leaves))]

    def siblings(groups: list[tuple[int, int]], start: int) -> list[tuple[Any, int, int, int]]:
        """The nodes that begin at `start`, (rank, first leaf, last leaf + 1, end): groups, or what they fall into."""
        found = []
        while groups:
            first, last = groups.pop()
            end = lengths[leaves[first]] if last == first + 1 else min(common[first + 1 : last])
            if last == first + 1 or end - start >= shortest:
                found.append((min(ranks[place] for place in leaves[first:last]), first, last, end))
            else:
                groups += _forks(common, first, last, end)
        return sorted(found, reverse=True)  # the first of them is popped first

    runs: list[Run] = []
    waiting = [(NOWHERE, 0, *node[1:]) for node in siblings([(0, len(leaves))], 0)]
    while waiting:
        parent, start, first, last, end = waiting.pop()
        ends = range(leaves[first - 1] + 1 if first else 0, leaves[first] + 1) if last == first + 1 else range(0)
        if last > first + 1:
            inner = siblings(_forks(common, first, last, end), end)
            waiting += [(len(runs), end, *node[1:]) for node in inner]
        runs.append(Run(parent=parent, start=start, end=end, ends=ends))
    return runs


def _forks(common: Sequence[int], first: int, last: int, end: int) -> list[tuple[int, int]]:
    """What a group of leaves falls into after the `end` positions that all of them share."""
    return list(pairwise([first, *(leaf for leaf in range(first + 1, last) if common[leaf] == end), last]))
