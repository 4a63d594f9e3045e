"""Files and folders of this machine, patterns of them, and archives among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sartor.collect import Found, Trip, not_taken, readable
from sartor.collect.reading import Facts, Taste, beginning, facts_of, read_file
from sartor.collect.unpacking import is_archive, read_archive
from sartor.collect.walking import Wanted, left_out, matching, split, walk
from sartor.data.folder import is_data_folder
from sartor.errors import DataError
from sartor.types import LedgerEntry

SUMMARY = "files and folders, patterns of them, and archives among them"

#: Most files of one place.
MAX_FILES = 1_000_000


class Config(Taste):
    """A file, a folder or a pattern. Links are not followed: what they point at has a place of its own."""

    place: str
    root: str = ""


def matches(place: str, root: Path) -> bool:
    """Something is there."""
    return (root / place).exists() or bool(matching(place, root))


def find(config: Config, trip: Trip) -> Iterator[Found]:
    """Every file, sorted by its path.

    Raises:
        DataError: the folder is a data folder already.
    """
    root, place = Path(config.root), readable(config.place)
    base = root / config.place
    if base.is_file():
        yield from _one(base.resolve(), place, config, Facts(), trip)  # a link that is named is meant
    elif base.is_dir():
        if is_data_folder(base):
            raise DataError(f"{place} is a data folder already", hint="it needs no collecting: use it as it is")
        yield from _folder(base, f"{place.rstrip('/')}/", lambda path, is_folder: True, config, trip)
    else:
        start, wanted = split(config.place)
        yield from _folder(root / start, readable(start), wanted, config, trip)


def _folder(base: Path, place: str, wanted: Wanted, config: Config, trip: Trip) -> Iterator[Found]:
    """What is wanted of a folder. `place` ends with a slash, or is empty."""
    top = [path.name for path in base.iterdir() if path.is_file()]
    facts = facts_of(top, lambda name: beginning(base / name), place)
    number = 0
    for path, label in walk(base, base, place, (*left_out(base), *config.exclude), wanted):
        if isinstance(path, LedgerEntry):
            yield path
            continue
        number += 1
        if number > MAX_FILES:
            yield not_taken(label, "max_files", f"it and what comes after: the limit max_files is {MAX_FILES:,}")
            return
        yield from _one(path, label, config, facts, trip)


def _one(path: Path, label: str, config: Config, facts: Facts, trip: Trip) -> Iterator[Found]:
    try:
        if path.is_symlink():
            yield not_taken(label, "link", f"it points at {readable(str(path.readlink()))}")
        elif not path.is_file():
            yield not_taken(label, "not_a_file", "neither a file nor a folder")
        elif is_archive(label):
            yield from read_archive(path, label, config, trip)
        else:
            yield from read_file(path, label, config, facts, trip)
    except OSError as error:
        yield not_taken(label, "unreadable", f"it cannot be opened: {error.strerror}")
