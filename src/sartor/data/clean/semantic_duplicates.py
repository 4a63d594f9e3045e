"""Examples that mean the same as an earlier one in other words, by the vectors of an encoder.

By all-minilm-l6-v2 the cosine of a question in other words is often 0.91 to 0.97; but that of a sentence and its
opposite ("turn the light on", "turn the light off") reaches 0.89, hence the threshold. Each example is compared with
all that stay: time grows with their square, and memory is a vector each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import Part
from sartor.data.finding.alike import batches, tagged, vectors_by
from sartor.data.near.shelf import Column
from sartor.types import Example, Frozen

SUMMARY = "examples that mean the same as an earlier one, by an encoder"
REASONS = ("semantic_duplicate",)
SELECTS = False
WHOLE = False

#: Examples whose vectors are asked for at a time.
BATCH = 64
#: Vectors of earlier examples that a batch is multiplied with at a time: 64 × 65,536 products take 16 MiB.
BLOCK = 2**16

#: The nearest of some examples: its cosine, and its id. Nobody is as far away as this one.
Nearest = tuple[float, str]
NOBODY: Nearest = (-2.0, "")


class Config(Frozen):
    action: Literal["drop", "report"] = Field(default="drop", description="drop the later one, or tell of it")
    threshold: float = Field(default=0.95, gt=0.0, le=1.0, description="the least cosine of the vectors of two texts")
    of: Part = Field(default="whole", description="what is compared: the question, the answer, or all")
    numbers: bool = Field(default=True, description="texts that differ in a number are no duplicates")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    """See the contract.

    Raises:
        DataError: no encoder is at hand.
    """
    vectors_of = vectors_by(context.embed, "semantic_duplicates")
    stayed = _Stayed()
    for batch in batches(rows, BATCH):
        texts, tags = tagged(batch, config.of, numbers=config.numbers)
        nearest = stayed.take(batch, vectors_of(texts), tags, config.threshold)
        for example, (cosine, other) in zip(batch, nearest, strict=True):
            yield _outcome(example, cosine, other, config)


class _Stayed:
    """The examples that stay, with their vectors."""

    def __init__(self) -> None:
        self._vectors: Column | None = None
        self._tags = Column(np.int64)
        self._ids: list[str] = []

    def take(self, batch: list[Example], vectors_ND: np.ndarray, tags: list[int], threshold: float) -> list[Nearest]:
        """The nearest that stays before each of a batch; those that have none near enough stay too."""
        tags_N = np.array(tags, np.int64)
        nearest = self._nearest(vectors_ND, tags_N)
        within_NN = np.where(tags_N[:, None] == tags_N, vectors_ND @ vectors_ND.T, NOBODY[0])
        fresh: list[int] = []
        for row in range(len(batch)):
            inner = ((float(within_NN[row, other]), batch[other].id) for other in fresh)
            nearest[row] = max((nearest[row], *inner), key=lambda pair: pair[0])
            if nearest[row][0] < threshold:
                fresh.append(row)
        self._vectors = self._vectors or Column(np.float32, vectors_ND.shape[1])
        self._vectors.append(vectors_ND[fresh])
        self._tags.append(tags_N[fresh])
        self._ids += [batch[row].id for row in fresh]
        return nearest

    def _nearest(self, vectors_ND: np.ndarray, tags_N: np.ndarray) -> list[Nearest]:
        """The nearest of those that stayed before this batch."""
        nearest = [NOBODY] * len(vectors_ND)
        for start in range(0, len(self._ids) if self._vectors else 0, BLOCK):
            assert self._vectors is not None
            block_MD = self._vectors.rows[start : start + BLOCK]
            same_NM = tags_N[:, None] == self._tags.values[start : start + BLOCK]
            cosines_NM = np.where(same_NM, vectors_ND @ block_MD.T, NOBODY[0])
            for row, place in enumerate(cosines_NM.argmax(axis=1).tolist()):
                here = float(cosines_NM[row, place]), self._ids[start + place]
                nearest[row] = max(nearest[row], here, key=lambda pair: pair[0])
        return nearest


def _outcome(example: Example, cosine: float, other: str, config: Config) -> Outcome:
    if cosine < config.threshold:
        return kept(example)
    detail = f"{cosine:.3f} like {other}"
    if config.action == "drop":
        return dropped(example, "semantic_duplicate", detail)
    return kept(example, entry_of(example, "flagged", "semantic_duplicate", detail))
