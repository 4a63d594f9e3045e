"""Augment examples: rounds of asking a model, checking and reviewing, until there are as many as are wanted."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from sartor.ask.opening import open_asker
from sartor.augment.gather import gather
from sartor.augment.grow import Review, grow, leave_waiting
from sartor.augment.work import Config as Config
from sartor.augment.work import Work, open_work
from sartor.data.ledger import refuse_if_many
from sartor.data.read import read
from sartor.workshop import Job, Takes

SUMMARY = "grows examples from seeds, in rounds that are checked and reviewed"
TAKES: Takes = "examples"


def inputs(config: Config, root: Path) -> Any:
    """Nothing beside settings and seeds."""
    return None


def run(job: Job, config: Config) -> None:
    """Grow the examples of `job.source` into `job.to`; a job that was stopped goes on where it stopped.

    Raises:
        UserError: what passed the checks waits for a reviewer: `sartor data review` shows it.
    """
    gather(grown(job, config), job.to, job.to.name)


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
