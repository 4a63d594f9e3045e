"""Augment examples: rounds of asking a model, checking and reviewing, until there are as many as are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sartor.augment.gather import gather
from sartor.augment.work import Config as Config
from sartor.workshop import Job, Takes
from sartor.workshop.growing import grown

SUMMARY = "grows examples from seeds, in rounds that are checked and reviewed"
TAKES: Takes = "examples"


def inputs(config: Config, root: Path) -> Any:
    """Nothing beside settings and seeds; what the recipe does not take is refused here, before any step runs."""
    _ = config.settings


def run(job: Job, config: Config) -> None:
    """Grow the examples of `job.source` into `job.to`; a job that was stopped goes on where it stopped.

    Raises:
        Refused: what passed the checks waits for a reviewer, or nothing was accepted.
    """
    gather(grown(job, config), job.to, job.to.name)
