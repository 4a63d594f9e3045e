"""Examples that a test has too: what is learnt by heart proves nothing.

Compared with the held-out split and with benchmark files, by runs of words and by near questions. What many of the
first thousand examples have in common is an instruction before each question, and no sign of anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from sartor.data import near
from sartor.data.clean import Context, Filed, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import part_of, whole_of
from sartor.data.finding.alike import batches, begun, tagged
from sartor.data.finding.runs import Runs
from sartor.data.ledger import refuse_if_many
from sartor.data.read import read
from sartor.errors import DataError
from sartor.types import Example

SUMMARY = "examples that the held-out split or a benchmark has too"
REASONS = ("held_out", "benchmark")
SELECTS = True
WHOLE = False


class Config(Filed):
    action: Literal["drop", "report"] = Field(default="drop", description="drop the example, or tell of it")
    benchmarks: tuple[str, ...] = Field(default=(), description="files of questions that must not be trained on")
    threshold: float = Field(
        default=near.THRESHOLD,
        ge=0.5,
        le=1.0,
        description="the least Jaccard index of the runs of words of two questions",
    )
    numbers: bool = Field(default=True, description="questions that differ in a number are not near")

    @property
    def files(self) -> tuple[str, ...]:
        return self.benchmarks


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    """See the contract.

    Raises:
        DataError: there is nothing to compare with, or a benchmark cannot be read.
    """
    items = [*context.held_out, *(item for name in config.benchmarks for item in _benchmark(context.root, name))]
    if not items:
        raise DataError(
            "contamination has nothing to compare with", hint="name files in `benchmarks`, or hold out a test split"
        )
    head, rows = begun(rows, near.SAMPLE)
    known = _Known(items, head, config)
    for batch in batches(rows, near.BATCH):
        for example, (place, detail) in zip(batch, known.find(batch), strict=True):
            if place is None:
                yield kept(example)
                continue
            reason = "held_out" if place < len(context.held_out) else "benchmark"
            if config.action == "drop":
                yield dropped(example, reason, detail)
            else:
                yield kept(example, entry_of(example, "flagged", reason, detail))


class _Known:
    """The items of all tests, to be found again."""

    def __init__(self, items: Sequence[Example], head: Sequence[Example], config: Config) -> None:
        self._items, self._numbers = items, config.numbers
        self._wholes, self._questions = Runs([whole_of(item) for item in items]), Runs([_asked(item) for item in items])
        for runs in (self._wholes, self._questions):
            runs.forget_frames([whole_of(example) for example in head])
        self._index = near.Index(config.threshold, near.frame_of([_asked(example) for example in head]))
        for batch in batches(items, near.BATCH):
            self._index.add(*tagged(batch, "question", numbers=config.numbers))

    def find(self, batch: Sequence[Example]) -> Iterator[tuple[int | None, str]]:
        """For each example the item that it repeats, and how that shows; None and "" for most."""
        texts = [whole_of(example) for example in batch]
        signs = zip(
            self._wholes.find(texts),
            self._questions.find(texts),
            self._index.find(*tagged(batch, "question", numbers=self._numbers)),
            strict=True,
        )
        for whole, question, match in signs:
            if match is not None:
                yield match.number, f"asks {match.likeness:.2f} like {self._items[match.number].id}"
            elif whole is None and question is None:
                yield None, ""
            else:
                place = min(place for place in (whole, question) if place is not None)
                yield place, f"has a run of words of {self._items[place].id}"


def _asked(example: Example) -> str:
    return part_of(example, "question")


def _benchmark(root: Path, name: str) -> Sequence[Example]:
    """The items of a benchmark file."""
    found = read(root / name, format=None, fields={}, label=name)
    refuse_if_many(found.ledger)
    return found.examples
