"""Clean examples: the cleaners of `data/clean/`, one after the other, over a file or data folder of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from sartor import durable
from sartor.data.cleaning import Chosen, chosen, cleaned, decided_by
from sartor.data.folder import Making, card, making, told
from sartor.data.ledger import refuse_if_many
from sartor.data.read import Stream, read, stream
from sartor.errors import RecipeError
from sartor.recipe import Named
from sartor.types import Example, Frozen
from sartor.workshop import Job, Takes
from sartor.workshop.knowing import ENCODER, knowing

SUMMARY = "drops, mends or marks examples by the cleaners that are named"
TAKES: Takes = "examples"


class Config(Frozen):
    cleaners: tuple[Named, ...] = Field(min_length=1, description="Cleaners in order, each a word or with settings.")
    format: str | None = Field(None, description="The format of the rows, instead of sniffing it.")
    fields: dict[str, str] = Field({}, description="Our field name -> your column.")
    only_train: bool = Field(False, description="No part of it will be held out: cleaners that choose are let in.")
    held_out: str | None = Field(None, description="A file of examples that must not be met again: contamination.")
    model: str | None = Field(None, description="The base whose tokens are counted, for cleaners that count tokens.")
    encoder: str = Field(ENCODER, description="The encoder for cleaners that compare meanings.")


def inputs(config: Config, root: Path) -> Any:
    """What is held out, and the files that cleaners name.

    Raises:
        RecipeError: a cleaner is not known, has a wrong setting, or chooses among what may be held out later.
    """
    return [durable.digest(root / config.held_out) if config.held_out else "", *decided_by(_steps(config), root)]


def run(job: Job, config: Config) -> None:
    """Clean `job.source` into `job.to`.

    Raises:
        DataError: it cannot be read.
        RecipeError: a cleaner is not known, has a wrong setting, or chooses among what may be held out later.
    """
    steps = _steps(config)
    assert job.source is not None
    found = stream(job.source, format=config.format, fields=config.fields, label=job.label, progress=job.progress)
    context = knowing(job, model=config.model, encoder=config.encoder, held_out=_held_out(config, job.root))
    with making(job.to) as folder:
        for example in cleaned(_examples(found, folder), steps, context, folder.tell):
            folder.keep(example)
        folder.balance(found.rows)
        facts = [
            ("from", job.label),
            ("format", found.format),
            ("cleaners", ", ".join(step.name for step in steps)),
            ("rows in", f"{found.rows:,}"),
            ("rows out", f"{folder.num_kept:,}"),
        ]
        folder.finish(card(f"{job.source.stem}, cleaned", facts, told(folder.counts)))


def _steps(config: Config) -> tuple[Chosen, ...]:
    """The cleaners, of which none chooses where it must not."""
    steps = chosen(config.cleaners, "cleaners")
    if not config.only_train:
        _refuse_choosing(steps)
    return steps


def _examples(found: Stream, folder: Making) -> Iterator[Example]:
    """The rows that can be read; of the others the folder is told."""
    for outcome in found:
        folder.tell(*outcome.entries)
        if outcome.example is not None:
            yield outcome.example


def _held_out(config: Config, root: Path) -> Sequence[Example]:
    if config.held_out is None:
        return ()
    found = read(root / config.held_out, format=None, fields=config.fields, label=config.held_out)
    refuse_if_many(found.ledger)
    return found.examples


def _refuse_choosing(steps: Sequence[Chosen]) -> None:
    for step in steps:
        if step.selects:
            raise RecipeError(
                f"{step.name} looks at more than a row in itself, and what is held out later must not be chosen so",
                hint=f"name it in the recipe, `data.clean: [{step.name}]`, where it sees the training split alone; "
                "or say `only_train` if no part of this file will be held out",
            )
