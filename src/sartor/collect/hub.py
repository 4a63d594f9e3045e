"""A data set of the Hugging Face hub at a pinned revision: its data files, from the hub or from the local cache.

A revision that moves (a branch, a tag) is resolved to its commit first; files come from that commit alone, and every
place names it. No code of a repository is run: only files of rows and prose are fetched.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor.collect import Found, Place, Trip, not_taken
from sartor.collect.reading import Facts, Taste, beginning, facts_of, media_type_of, read_file
from sartor.data.extra import needs
from sartor.errors import DataError, first_line
from sartor.extract import NotTaken, over

SUMMARY = "a data set of the Hugging Face hub: hf:owner/name@revision"

#: Bytes of the wanted files of one data set. More is a job for a machine with room: raise `max_bytes`.
HUB_BYTES = 64 * 2**30

_PLACE = re.compile(r"hf:(?://datasets/)?([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CARDS = ("README.md", "LICENSE*", "LICENCE*")


class Config(Taste):
    """A data set. `files`: patterns of the files that are wanted, such as "data/train-*"; all of rows where empty.

    `offline`: only what the cache has. `cache`: a folder in place of the usual one.
    """

    place: str
    root: str = ""
    files: tuple[str, ...] = ()
    offline: bool = False
    cache: str = ""
    max_bytes: int = HUB_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit on this machine. `others`: files that it has beside those that are here."""

    name: str
    commit: str
    folder: Path
    others: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"hf:{self.name}@{self.commit}"


def matches(place: str, root: Path) -> bool:
    """Written as `hf:owner/name`, with or without `@revision`."""
    return place.startswith("hf:")


def find(config: Config, trip: Trip) -> Iterator[Found]:
    """The rows of every wanted file, in the order of their names.

    Raises:
        DataError: there is no such data set or revision, or it is too large.
    """
    found = _PLACE.fullmatch(config.place)
    if not found:
        raise DataError(
            f"{config.place} names no data set", hint="hf:owner/name@revision, for example hf:openai/gsm8k@main"
        )
    name, revision = found[1], found[2] or "main"
    snapshot = _snapshot(config, name, revision)
    yield from _read(snapshot, revision, config, trip)
    for other in snapshot.others:
        yield not_taken(f"{snapshot.place}/{other}", "not_asked_for", "it is none of the files that are wanted")


def _read(snapshot: Snapshot, revision: str, config: Config, trip: Trip) -> Iterator[Found]:
    folder = snapshot.folder
    inside = folder.parent.parent.resolve()  # the cache keeps contents apart, and links to them
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    facts = facts_of([name for name in files if "/" not in name], lambda name: beginning(files[name]))
    about = {"repository": snapshot.name, "revision": snapshot.commit}
    for name, path in files.items():
        label = f"{snapshot.place}/{name}"
        if not path.resolve().is_relative_to(inside):
            yield not_taken(label, "link", "it leads out of the cache")
        elif _is_card(name):
            yield not_taken(label, "describes_the_place", "it is about the data, and no part of it")
        elif not _is_wanted(name, config):
            yield not_taken(label, "not_asked_for", "it is none of the files that are wanted")
        else:
            for found in read_file(path, label, config, Facts(facts.licence, about), trip):
                yield _pinned(found, snapshot, revision)


def _pinned(found: Found, snapshot: Snapshot, revision: str) -> Found:
    """The card tells how to get the same again where a revision was asked for that moves."""
    if not isinstance(found, Place) or revision == snapshot.commit:
        return found
    note = f"`{revision}` of {snapshot.name} was {snapshot.commit}: to get the same again, name {snapshot.place}."
    return found.model_copy(update={"about": {**found.about, "note": note}})


def _is_card(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in _CARDS)


def _is_wanted(name: str, config: Config) -> bool:
    if config.files:
        return any(fnmatch.fnmatch(name, pattern) for pattern in config.files)
    return bool(media_type_of(name, config))


def _snapshot(config: Config, name: str, revision: str) -> Snapshot:
    needs("huggingface_hub")
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if config.offline:
            return _cached(config, name, revision)
        return _fetched(config, name, revision)
    except NotTaken as error:
        raise DataError(f"{config.place}: {error.detail}", hint="name fewer `files`, or raise `max_bytes`") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"the data set {name!r} (revision {revision!r}) is not to be had: {first_line(error)}",
            hint="check the name, the revision and HF_TOKEN; offline, only what the cache has can be read, or a folder "
            "or an archive of the data set always",
        ) from error


def _fetched(config: Config, name: str, revision: str) -> Snapshot:
    """From the hub; from the cache where the hub cannot be reached."""
    httpx2 = needs("httpx2")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().dataset_info(name, revision=revision, files_metadata=True)
    except HfHubHTTPError:
        raise
    except (OSError, httpx2.TransportError):
        return _cached(config, name, revision)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    wanted = [file for file in sorted(sizes) if _is_card(file) or _is_wanted(file, config)]
    total = sum(sizes[file] for file in wanted)
    if total > config.max_bytes:
        raise over("max_bytes", total, config.max_bytes, "bytes in the wanted files")
    folder = snapshot_download(
        name, repo_type="dataset", revision=info.sha, allow_patterns=list(map(_literal, wanted)), **_cache(config)
    )
    return Snapshot(name, str(info.sha), Path(folder), tuple(sorted(sizes.keys() - set(wanted))))


def _cached(config: Config, name: str, revision: str) -> Snapshot:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True, **_cache(config))
    )
    if not _COMMIT.fullmatch(folder.name):
        raise OSError(f"the cache does not say which commit {revision} was")
    return Snapshot(name, folder.name, folder)


def _cache(config: Config) -> dict[str, Any]:
    return {"cache_dir": config.cache} if config.cache else {}


def _literal(name: str) -> str:
    """A name as a pattern that fits it alone."""
    return re.sub(r"([*?[])", r"[\1]", name)
