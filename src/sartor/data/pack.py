"""Rendered examples to optimizer steps: lists of flat batches without padding.

Packing never changes which examples are in a step, only how they share a forward. The order is a function of seed and
epoch, so the whole state of the data is one number: the next step.
"""

from __future__ import annotations

import json
from bisect import bisect, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sartor import durable
from sartor.data.fold import SHORTEST, Alphabet, arrange, grow, num_unique
from sartor.errors import DataError
from sartor.types import Batch, Json

STATE = "data.json"


@dataclass(frozen=True, slots=True)
class Segment:
    """One rendered sequence, targets already shifted: token t predicts target t with weight t."""

    row: str
    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[float, ...]


def segment(row: str, ids: Sequence[int], weights: Sequence[float]) -> Segment:
    """Shift: position t is trained to give token t + 1, with that token's weight. The last token is never an input."""
    return Segment(row=row, tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=tuple(weights[1:]))


def pack(segments: Sequence[Segment], *, micro_tokens: int, max_segments: int = 0, share: bool = False) -> list[Batch]:
    """Put segments into as few flat batches as fit (first fit, longest first); `max_segments` 0 = any number.

    With `share`, room is counted in the tokens that `fold` leaves to compute, so that segments that begin alike meet in
    one batch; the batches then do not depend on the order of the segments, if each has a row of its own.
    A segment longer than `micro_tokens` gets a batch of its own.
    """
    if share and segments:
        return [_flatten(members) for members in _shared_fit(segments, micro_tokens, max_segments)]
    bins: list[list[Segment]] = []
    room: list[int] = []
    for item in sorted(segments, key=lambda item: -len(item.tokens)):
        for index, left in enumerate(room):
            if len(item.tokens) <= left and (not max_segments or len(bins[index]) < max_segments):
                bins[index].append(item)
                room[index] -= len(item.tokens)
                break
        else:
            bins.append([item])
            room.append(micro_tokens - len(item.tokens))
    return [_flatten(members) for members in bins]


def _shared_fit(segments: Sequence[Segment], micro_tokens: int, max_segments: int) -> list[list[Segment]]:
    """Each segment to the bin in which it costs least, the first of equals: first fit, where nothing is shared.

    They come branch by branch through the forest of all, the branch with the longest segment first at every fork.
    """
    alphabet = arrange(_flatten(segments))
    named = zip(alphabet.lengths, alphabet.order, strict=True)
    ranks = [(-length, segments[index].row, place) for place, (length, index) in enumerate(named)]
    turns = [place for run in grow(alphabet, ranks) for place in reversed(run.ends)]
    bins: list[list[int]] = []  # places in the alphabet, ascending
    sizes: list[int] = []
    for place in turns:
        costs = [alphabet.lengths[place] - _saved(alphabet, members, place) for members in bins]
        for index in sorted(range(len(bins)), key=costs.__getitem__):
            room = max(0, micro_tokens - sizes[index])  # what costs nothing fits anywhere
            if costs[index] > room or len(bins[index]) == max_segments:
                continue
            size = num_unique(alphabet.only(sorted([*bins[index], place])))  # a new fork may undo what others shared
            if size - sizes[index] <= room:
                insort(bins[index], place)
                sizes[index] = size
                break
        else:
            bins.append([place])
            sizes.append(alphabet.lengths[place])
    turn = {place: number for number, place in enumerate(turns)}
    return [[segments[alphabet.order[place]] for place in sorted(members, key=turn.__getitem__)] for members in bins]


def _saved(alphabet: Alphabet, members: Sequence[int], place: int) -> int:
    """Tokens that a segment need not add to a bin: what it has in common with the nearest member."""
    after = bisect(members, place)
    neighbours = [sorted((member, place)) for member in members[max(0, after - 1) : after + 1]]
    common = max(alphabet.common(*pair) for pair in neighbours)
    return common if common >= SHORTEST or common == alphabet.lengths[place] else 0


def _flatten(members: Sequence[Segment]) -> Batch:
    lengths = [len(item.tokens) for item in members]
    return Batch(
        tokens_T=np.concatenate([np.asarray(item.tokens, dtype=np.int64) for item in members]),
        positions_T=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        targets_T=np.concatenate([np.asarray(item.targets, dtype=np.int64) for item in members]),
        weights_T=np.concatenate([np.asarray(item.weights, dtype=np.float32) for item in members]),
        offsets_S1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        rows=tuple(item.row for item in members),
    )


class Steps:
    """An endless iterator of optimizer steps: each a list of batches holding `batch_size` examples.

    Epochs follow one another without a short batch between them. `share` packs with equal beginnings counted once.
    `save` and `load` keep the position.

    Raises (on construction):
        DataError: there are no examples.
    """

    def __init__(
        self,
        examples: Sequence[Sequence[Segment]],
        *,
        batch_size: int,
        micro_tokens: int,
        seed: int,
        share: bool = False,
    ) -> None:
        if not examples:
            raise DataError("there are no examples to train on", hint="`sartor check` says what became of the rows")
        self._examples = examples
        self._batch_size = batch_size
        self._micro_tokens = micro_tokens
        self._seed = seed
        self.share = share
        self.position = 0

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        first = self.position * self._batch_size
        chosen = [self._examples[self._index(place)] for place in range(first, first + self._batch_size)]
        self.position += 1
        segments = [item for members in chosen for item in members]
        return pack(segments, micro_tokens=self._micro_tokens, share=self.share)

    def _index(self, place: int) -> int:
        epoch, within = divmod(place, len(self._examples))
        return int(_order(len(self._examples), self._seed, epoch)[within])

    def save(self, folder: Path) -> None:
        durable.write_json(folder / STATE, {"position": self.position, "seed": self._seed})

    def load(self, folder: Path) -> None:
        state: Json = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.position = int(state["position"])


@lru_cache(maxsize=2)  # a step may straddle two epochs
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
