"""Collect documents or examples: files, folders, archives, data sets of a hub, web pages, logs of our own server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from sartor import durable
from sartor.collect import Only
from sartor.collect.gather import gather, origin_of
from sartor.errors import RecipeError
from sartor.types import Frozen, Json
from sartor.workshop import Job, Takes

SUMMARY = "takes documents or examples from places, with their source, digest, time and licence"
TAKES: Takes = "nothing"


class Config(Frozen):
    places: tuple[str | Json, ...] = Field(
        min_length=1, description="Paths, patterns, archives, URLs, hf:owner/name@revision; or {place: …, option: …}."
    )
    only: Only = Field("", description="documents or examples, where places have both.")
    options: Json = Field({}, description="Options for all of the places.")


def inputs(config: Config, root: Path) -> Any:
    """The digests of local files; what lies elsewhere is fetched once."""
    places = [place for place, _ in map(_split, config.places) if "://" not in place]
    return [(place, [(file.name, durable.sha256(file)) for file in _files(root / place)]) for place in places]


def run(job: Job, config: Config) -> None:
    """Collect from the places into `job.to`; a crawl that was stopped goes on.

    Raises:
        DataError: there is nothing at a place, or nothing that could be taken.
    """
    origins = [
        origin_of(place, root=job.root, **{**config.options, **options})
        for place, options in map(_split, config.places)
    ]
    gather(origins, job.to, only=config.only, progress=lambda kept, _: job.progress(kept, 0) if job.progress else None)


def _split(place: str | Json) -> tuple[str, Json]:
    """A place, and its own options."""
    if isinstance(place, str):
        return place, {}
    if not isinstance(place.get("place"), str):
        raise RecipeError(f"`places` has {place!r}, without a `place`", hint="write {place: docs/, option: value}")
    return place["place"], {key: value for key, value in place.items() if key != "place"}


def _files(path: Path) -> list[Path]:
    """The file there, or all below the folder."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path] * path.is_file()
