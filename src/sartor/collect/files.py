"""Files and folders of this machine, patterns of them, and archives among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from sartor import durable
from sartor.collect import Found, Trip, not_taken, readable
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


#: Is a file wanted, or may something wanted be in a folder? Told by its path below where the walk begins.
Wanted = Callable[[str, bool], bool]


def matches(place: str, root: Path) -> bool:
    """Something is there."""
    return (root / place).exists() or bool(matching(place, root))


def matching(place: str, root: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    """The files that a pattern fits, by their paths from the root, in the order of `find`, which takes no others."""
    start, wanted = _split(place)
    base = root / start
    walked = _walk(base, base, start, (*_listed(base), *exclude), wanted)
    files = (path for path, _ in walked if isinstance(path, Path) and path.is_file())
    return [start + path.relative_to(base).as_posix() for path in files]


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
        start, wanted = _split(config.place)
        yield from _folder(root / start, readable(start), wanted, config, trip)


def _folder(base: Path, place: str, wanted: Wanted, config: Config, trip: Trip) -> Iterator[Found]:
    """What is wanted of a folder. `place` ends with a slash, or is empty."""
    top = [path.name for path in base.iterdir() if path.is_file()]
    facts = facts_of(top, lambda name: beginning(base / name), place)
    number = 0
    for path, label in _walk(base, base, place, (*_listed(base), *config.exclude), wanted):
        if isinstance(path, LedgerEntry):
            yield path
            continue
        number += 1
        if number > MAX_FILES:
            yield not_taken(label, "max_files", f"it and what comes after: the limit max_files is {MAX_FILES:,}")
            return
        yield from _one(path, label, config, facts, trip)


def _listed(base: Path) -> tuple[str, ...]:
    """What is left out of a folder unasked."""
    own = base / IGNORE_FILE
    return (*USUAL, *(patterns_in(own.read_text("utf-8", "replace")) if own.is_file() else ()))


def _walk(
    folder: Path, base: Path, place: str, patterns: tuple[str, ...], wanted: Wanted
) -> Iterator[tuple[Path | LedgerEntry, str]]:
    """What is wanted, with its label, sorted; for a file or folder that is left out, an entry stands in its place."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith(durable.STAGING))
    except OSError as error:
        label = f"{place}{readable(folder.relative_to(base).as_posix())}/"
        yield not_taken(label, "unreadable", f"the folder cannot be opened: {error.strerror}"), label
        return
    for path in paths:
        relative = readable(path.relative_to(base).as_posix())
        is_folder = path.is_dir() and not path.is_symlink()
        label = f"{place}{relative}" + ("/" if is_folder else "")
        if not wanted(relative, path.is_dir()):
            continue
        if pattern := ignored(relative, patterns, is_folder=is_folder):
            yield not_taken(label, "excluded", f"by the pattern {pattern}"), label
        elif is_folder and is_data_folder(path):
            yield not_taken(label, "data_folder", "it is a data folder already, perhaps made from these files"), label
        elif is_folder:
            yield from _walk(path, base, place, patterns, wanted)
        else:
            yield path, label


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


def _split(pattern: str) -> tuple[str, Wanted]:
    """The folder that a pattern starts from, with its slash, and what is wanted below it."""
    plain = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    start = plain[: plain.rfind("/") + 1]
    parts = pattern[len(start) :].split("/")
    return start, lambda path, is_folder: _fits(path.split("/"), parts, is_folder)


def _fits(names: Sequence[str], parts: Sequence[str], is_folder: bool) -> bool:
    """Do the parts of a pattern fit the names of a path, or, of a folder, may they fit something in it?"""
    if not names:
        return bool(parts) if is_folder else all(part == "**" for part in parts)
    if not parts:
        return False
    if parts[0] == "**":
        return _fits(names[1:], parts, is_folder) or _fits(names, parts[1:], is_folder)
    return fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:], is_folder)
