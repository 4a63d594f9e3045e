"""Build examples of documents, by asking a model or without one, or of the rows of a table."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from sartor.ask.opening import open_asker
from sartor.build.chunks import Count
from sartor.build.documents import Config as Config
from sartor.build.documents import build
from sartor.build.tables import build_table
from sartor.data.folder import is_data_folder, open_folder
from sartor.data.prepare import num_tokens
from sartor.errors import DataError
from sartor.types import Source, Text
from sartor.workshop import Job, Takes
from sartor.workshop.knowing import renderer_of

SUMMARY = "makes examples of documents or of the rows of a table"
TAKES: Takes = "documents"
#: Beside the data folder: what was answered for a build is not asked again by another one.
ANSWERS = "build.answers"


def inputs(config: Config, root: Path) -> Any:
    """Nothing beside settings and source; but a builder's settings are looked at before anything is made."""
    _ = config.settings


def run(job: Job, config: Config) -> None:
    """Build examples of `job.source` into `job.to`; what was answered before is not asked again.

    Raises:
        RecipeError: the builder does not read what the source holds.
        DataError: the source cannot be read, or nothing comes of it.
    """
    assert job.source is not None
    if config.member.READS == "rows":
        if is_data_folder(job.source):
            raise DataError(
                f"{job.label} is a data folder, and {config.builder.name} reads a table",
                hint="name the CSV, TSV, Parquet or JSONL file itself",
            )
        build_table(job.source, job.label, config.builder, job.to, job.to.name, progress=job.progress)
        return
    documents = open_folder(job.source, job.label).documents
    with contextlib.ExitStack() as stack:
        asker = stack.enter_context(contextlib.closing(open_asker(config.who))) if config.asks else None
        build(
            documents,
            config,
            job.to,
            job.to.name,
            asker=asker,
            answers=job.to.parent / ANSWERS,
            count=_counting(config.model) if config.model else None,
            progress=job.progress,
        )


def _counting(model: str) -> Count:
    """Counts tokens of a text as this base sees it."""
    renderer = renderer_of(model)
    return lambda text: num_tokens(Text(source=Source(file="chunk", line=1), text=text), renderer)
