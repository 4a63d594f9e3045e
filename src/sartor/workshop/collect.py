"""Collect documents or examples: files, folders, archives, data sets of a hub, web pages, logs of our own server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from sartor import durable
from sartor.collect import Only
from sartor.collect.gather import gather, origin_of
from sartor.collect.walking import matching
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
    return [
        (place, [(name, durable.sha256(root / name)) for name in _files(place, options, root)])
        for place, options in _places(config)
        if "://" not in place
    ]


def run(job: Job, config: Config) -> None:
    """Collect from the places into `job.to`; a crawl that was stopped goes on.

    Raises:
        DataError: there is nothing at a place, or nothing that could be taken.
    """
    origins = [origin_of(place, options, root=job.root) for place, options in _places(config)]
    gather(origins, job.to, only=config.only, progress=lambda kept, _: job.progress(kept, 0) if job.progress else None)


def _places(config: Config) -> Iterator[tuple[str, Json]]:
    """Each place with the options of all and its own."""
    for place in config.places:
        own = {"place": place} if isinstance(place, str) else dict(place)
        name = own.pop("place", None)
        if not isinstance(name, str):
            raise RecipeError(f"`places` has {place!r}, without a `place`", hint="write {place: docs/, option: value}")
        yield name, {**config.options, **own}


def _files(place: str, options: Json, root: Path) -> list[str]:
    """Paths from the root: the file there, all below the folder, or what fits the pattern."""
    at = root / place
    if at.is_dir():
        return sorted(str(Path(place, file.relative_to(at))) for file in at.rglob("*") if file.is_file())
    return [place] if at.is_file() else matching(place, root, options.get("exclude", ()))
