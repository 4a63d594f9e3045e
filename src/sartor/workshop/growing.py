"""Augmentation as a step of the workshop does it: seeds read, models opened, the rounds beside the data folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sartor.ask.opening import open_asker
from sartor.augment.grow import grow, leave_waiting
from sartor.augment.work import Config, Work, name_of, open_work
from sartor.data.ledger import refuse_if_many
from sartor.data.read import read
from sartor.workshop import Job


def grown(job: Job, config: Config, rounds: Path | None = None) -> Work:
    """The job with as many rounds as there can be; what must be reviewed waits.

    Args:
        rounds: the folder of its rounds; where none is given, one beside `job.to` that is named after what must not
            change, so that a step that asks for more goes on.
    """
    assert job.source is not None
    found = read(job.source, format=None, fields={}, label=job.label)
    refuse_if_many(found.ledger)
    folder = rounds or job.to.parent / name_of(found.examples, config)
    work = open_work(folder, found.examples, config, found.entries)
    with contextlib.ExitStack() as stack:
        asker = stack.enter_context(contextlib.closing(open_asker(config.who)))
        judging = asker if config.judge == config.who else None
        if config.judge and not judging:
            judging = stack.enter_context(contextlib.closing(open_asker(config.judge)))
        for each in grow(work, asker, judging=judging, review=leave_waiting):
            if job.progress:
                job.progress(each.done, each.total)
    return work


def rounds_beside(to: Path) -> Path:
    """Where a person finds the rounds of what ends in this data folder."""
    return to.with_name(f"{to.name}.rounds")
