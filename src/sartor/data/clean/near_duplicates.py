"""Examples that say nearly the same as an earlier one, by their shared runs of words (see `data/near`).

The first of such stays, and each other one is near to one that stays: no chain of small steps leads far away. What more
than a tenth of the first thousand examples have in common, such as an instruction before each question, does not count;
where a tenth of the data are copies of one text with a word changed, that hides them: then `common: true`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field

from sartor.data import near
from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import Part, part_of
from sartor.data.finding.alike import batches, begun, tagged
from sartor.types import Example, Frozen

SUMMARY = "examples that say nearly the same as an earlier one"
REASONS = ("near_duplicate",)
SELECTS = False
WHOLE = False


class Config(Frozen):
    action: Literal["drop", "report"] = Field(default="drop", description="drop the later one, or tell of it")
    threshold: float = Field(
        default=near.THRESHOLD, ge=0.5, le=1.0, description="the least Jaccard index of the runs of words of two texts"
    )
    of: Part = Field(default="whole", description="what is compared: the question, the answer, or all")
    numbers: bool = Field(default=True, description="texts that differ in a number are no duplicates")
    common: bool = Field(default=False, description="what more than a tenth of the examples have in common counts too")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    head, rows = begun(rows, near.SAMPLE)
    frame = None if config.common else near.frame_of([part_of(example, config.of) for example in head])
    index = near.Index(config.threshold, frame)
    ids: list[str] = []
    for batch in batches(rows, near.BATCH):
        ids += [example.id for example in batch]
        matches = index.add(*tagged(batch, config.of, numbers=config.numbers))
        for example, match in zip(batch, matches, strict=True):
            yield _outcome(example, match, ids, config)


def _outcome(example: Example, match: near.Match | None, ids: list[str], config: Config) -> Outcome:
    if match is None:
        return kept(example)
    detail = f"{match.likeness:.2f} like {ids[match.number]}"
    if config.action == "drop":
        return dropped(example, "near_duplicate", detail)
    return kept(example, entry_of(example, "flagged", "near_duplicate", detail))
