"""Whether the right answer is found: its rank among the answers of all held-out items, by the embeddings' cosines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sartor import stats
from sartor.types import Chat, Frozen, Score

SUMMARY = "1 if the item's own answer is the nearest of all held-out answers; or 1 / its rank"
READS = "rank"

reduce = stats.summarise


class Config(Frozen):
    """What counts."""

    measure: Literal["first", "reciprocal"] = Field(
        "first", description="first: 1 for the first place, else 0 (accuracy@1); reciprocal: 1 / rank (MRR)"
    )


def score(config: Config, example: Chat, rank: int) -> Score:
    """The score of a rank, which counts from 1."""
    value = 1.0 / rank if config.measure == "reciprocal" else float(rank == 1)
    return Score(value=value, detail="" if rank == 1 else f"its answer is in place {rank}")
