"""Files and folders of this machine, patterns of them, and archives among them."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from sartor import durable
from sartor.collect import Found, Trip, not_taken
from sartor.collect.ignoring import USUAL, ignored, patterns_in
from sartor.collect.reading import Facts, Taste, beginning, facts_of, read_file
from sartor.collect.unpacking import is_archive, read_archive
from sartor.data.folder import is_data_folder
from sartor.errors import DataError
from sartor.types import LedgerEntry

SUMMARY = "files and folders, patterns of them, and archives among them"

#: A file of patterns at the root of a folder, for this program alone.
IGNORE_FILE = ".sartorignore"
#: Most files of one place.
MAX_FILES = 1_000_000


class Config(Taste):
    """A file, a folder or a pattern. Links are not followed: what they point at has a place of its own."""

    place: str
    root: str = ""


def matches(place: str, root: Path) -> bool:
    """Something is there."""
    return (root / place).exists() or (bool(set(place) & set("*?[")) and bool(_globbed(place, root)))


def find(config: Config, trip: Trip) -> Iterator[Found]:
    """Every file, sorted by its path.

    Raises:
        DataError: the folder is a data folder already.
    """
    root = Path(config.root)
    base = root / config.place
    if base.is_file():
        yield from _one(base.resolve(), config.place, config, Facts(), trip)  # a link that is named is meant
    elif base.is_dir():
        if is_data_folder(base):
            raise DataError(f"{config.place} is a data folder already", hint="it needs no collecting: use it as it is")
        yield from _folder(base, config, trip)
    else:
        for name in _globbed(config.place, root):
            if pattern := ignored(name, config.exclude):
                yield not_taken(name, "excluded", f"by the pattern {pattern}")
            else:
                yield from _one(root / name, name, config, Facts(), trip)


def _folder(base: Path, config: Config, trip: Trip) -> Iterator[Found]:
    own = base / IGNORE_FILE
    listed = patterns_in(own.read_text("utf-8", "replace")) if own.is_file() else ()
    patterns = (*USUAL, *listed, *config.exclude)
    top = [path.name for path in base.iterdir() if path.is_file()]
    facts = facts_of(top, lambda name: beginning(base / name), f"{config.place.rstrip('/')}/")
    number = 0
    for path, label in _walk(base, base, config.place.rstrip("/"), patterns):
        if isinstance(path, LedgerEntry):
            yield path
            continue
        number += 1
        if number > MAX_FILES:
            yield not_taken(label, "max_files", f"it and what comes after: the limit max_files is {MAX_FILES:,}")
            return
        yield from _one(path, label, config, facts, trip)


def _walk(folder: Path, base: Path, place: str, patterns: tuple[str, ...]) -> Iterator[tuple[Path | LedgerEntry, str]]:
    """Files with their labels, sorted; for a file or folder that is left out, an entry stands in its place."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith(durable.STAGING))
    except OSError as error:
        label = f"{place}/{folder.relative_to(base).as_posix()}/"
        yield not_taken(label, "unreadable", f"the folder cannot be opened: {error.strerror}"), label
        return
    for path in paths:
        relative = path.relative_to(base).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        label = f"{place}/{relative}" + ("/" if is_folder else "")
        if pattern := ignored(relative, patterns, is_folder=is_folder):
            yield not_taken(label, "excluded", f"by the pattern {pattern}"), label
        elif is_folder and is_data_folder(path):
            yield not_taken(label, "data_folder", "it is a data folder already, perhaps made from these files"), label
        elif is_folder:
            yield from _walk(path, base, place, patterns)
        else:
            yield path, label


def _one(path: Path, label: str, config: Config, facts: Facts, trip: Trip) -> Iterator[Found]:
    try:
        if path.is_symlink():
            yield not_taken(label, "link", f"it points at {path.readlink()}")
        elif not path.is_file():
            yield not_taken(label, "not_a_file", "neither a file nor a folder")
        elif is_archive(label):
            yield from read_archive(path, label, config, trip)
        else:
            yield from read_file(path, label, config, facts, trip)
    except OSError as error:
        yield not_taken(label, "unreadable", f"it cannot be opened: {error.strerror}")


def _matching(pattern: str, root: Path) -> list[str]:
    """By the old function: `Path.glob` takes no absolute pattern, and follows links."""
    return glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207


def _globbed(place: str, root: Path) -> list[str]:
    return sorted(name for name in _matching(place, root) if (root / name).is_file())
