"""Flat batches as rows of one width, for models that take padded batches: only what is of like length meets in one.

Shape suffixes: T tokens of a flat batch · S segments · B rows · L width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sartor.types import Batch

#: Segments meet in a forward if the longest is at most so much longer than the shortest, and by so many tokens more.
LONGER, MORE = 1.25, 4


def runs(lengths: Sequence[int]) -> list[list[int]]:
    """Places grouped by like length, from short to long: so that little is padded."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        if found and lengths[place] <= LONGER * lengths[found[-1][0]] + MORE:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def alike(batch: Batch) -> list[Batch]:
    """A batch as batches of segments of like length."""
    return [chosen(batch, run) for run in runs(np.diff(batch.offsets_S1).tolist())]


def chosen(batch: Batch, places: Sequence[int]) -> Batch:
    """Some segments of a batch, in the order given."""
    spans = [slice(batch.offsets_S1[place], batch.offsets_S1[place + 1]) for place in places]
    lengths = [span.stop - span.start for span in spans]
    return replace(
        batch,
        tokens_T=np.concatenate([batch.tokens_T[span] for span in spans]),
        positions_T=np.concatenate([batch.positions_T[span] for span in spans]),
        targets_T=np.concatenate([batch.targets_T[span] for span in spans]),
        weights_T=np.concatenate([batch.weights_T[span] for span in spans]),
        offsets_S1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        rows=tuple(batch.rows[place] for place in places),
    )


def whole(batch: Batch) -> list[np.ndarray]:
    """The tokens of each segment."""
    return np.split(batch.tokens_T, batch.offsets_S1[1:-1])


def halves(batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The tokens of each segment before the first position with a weight, and from it on."""
    weights = np.split(batch.weights_T, batch.offsets_S1[1:-1])
    starts = [int(np.argmax(part != 0)) if (part != 0).any() else len(part) for part in weights]
    parts = [np.split(tokens, [start]) for tokens, start in zip(whole(batch), starts, strict=True)]
    return [first for first, _ in parts], [second for _, second in parts]


def padded(rows: Sequence[np.ndarray | Sequence[int]], fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows filled up to the longest (B, L), at least one wide, and a mask that is 1 where a row has a token."""
    width = max(1, *(len(row) for row in rows)) if rows else 1
    tokens_BL = np.full((len(rows), width), fill, dtype=np.int64)
    mask_BL = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        tokens_BL[place, : len(row)] = row
        mask_BL[place, : len(row)] = 1
    return tokens_BL, mask_BL
