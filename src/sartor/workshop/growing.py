"""Augmentation as a step of the workshop does it: seeds read, models opened, the rounds beside the data folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sartor.ask.opening import open_asker
from sartor.augment.grow import Review, grow, leave_waiting
from sartor.augment.work import Config, Work, open_work
from sartor.data.ledger import refuse_if_many
from sartor.data.read import read
from sartor.workshop import Job


def grown(job: Job, config: Config, review: Review = leave_waiting) -> Work:
    """The job with as many rounds as there can be, each reviewed in this way."""
    assert job.source is not None
    found = read(job.source, format=None, fields={}, label=job.source.name)
    refuse_if_many(found.ledger)
    work = open_work(work_folder(job.to), found.examples, config)
    with contextlib.ExitStack() as stack:
        asker = stack.enter_context(contextlib.closing(open_asker(config.who)))
        judging = stack.enter_context(contextlib.closing(open_asker(config.judge))) if config.judge else None
        for each in grow(work, asker, judging=judging, review=review):
            if job.progress:
                job.progress(each.done, each.total)
    return work


def work_folder(to: Path) -> Path:
    """Where the rounds of a job lie that ends in this data folder."""
    return to.with_name(f"{to.name}.rounds")
