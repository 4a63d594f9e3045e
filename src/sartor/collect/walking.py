"""Which files a folder or a pattern has: sorted, without what is left out, and never through a link."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from sartor import durable
from sartor.collect import not_taken, readable
from sartor.collect.ignoring import USUAL, ignored, patterns_in
from sartor.data.folder import is_data_folder
from sartor.types import LedgerEntry

#: A file of patterns at the root of a folder, for this program alone.
IGNORE_FILE = ".sartorignore"
#: Is a file wanted, or may something wanted be in a folder? Told by its path below where the walk begins.
Wanted = Callable[[str, bool], bool]


def matching(place: str, root: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    """The files that a pattern fits, by their paths from the root, in the order of `find`, which takes no others."""
    start, wanted = split(place)
    base = root / start
    walked = walk(base, base, start, (*left_out(base), *exclude), wanted)
    files = (path for path, _ in walked if isinstance(path, Path) and path.is_file())
    return [start + path.relative_to(base).as_posix() for path in files]


def walk(
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
            yield from walk(path, base, place, patterns, wanted)
        else:
            yield path, label


def left_out(base: Path) -> tuple[str, ...]:
    """What is left out of a folder unasked."""
    own = base / IGNORE_FILE
    return (*USUAL, *(patterns_in(own.read_text("utf-8", "replace")) if own.is_file() else ()))


def split(pattern: str) -> tuple[str, Wanted]:
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
