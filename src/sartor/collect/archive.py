"""One archive, as Kaggle, GitHub and ModelScope publish them: zip, tar, tar.gz, tar.bz2, tar.xz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sartor.collect import Found, Trip, readable
from sartor.collect.reading import Taste
from sartor.collect.unpacking import is_archive, read_archive

SUMMARY = "an archive (zip, tar, tar.gz, tar.bz2, tar.xz), as Kaggle, GitHub and ModelScope publish them"


class Config(Taste):
    """An archive on this machine. The one folder that holds everything in it is left out of names."""

    place: str
    root: str = ""


def matches(place: str, root: Path) -> bool:
    """A file with the suffix of an archive."""
    return is_archive(place) and (root / place).is_file()


def find(config: Config, trip: Trip) -> Iterator[Found]:
    """Every member that can be read, in the order of the archive."""
    yield from read_archive(Path(config.root) / config.place, readable(config.place), config, trip)
