"""Members of archives, one after the other, each measured while it is unpacked: nothing is written by a member's name.

A name that leads out of the archive, a link, a device, a locked or damaged member is an entry. A bomb (too much, or too
much for what it is packed into) ends the archive with the name of the limit: what its sizes say is not believed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sartor import durable
from sartor.collect import Found, Trip, not_taken, readable
from sartor.collect.ignoring import USUAL, ignored
from sartor.collect.reading import CARD_BYTES, PACKED, Facts, Taste, facts_of, media_type_of, read_file
from sartor.errors import MachineError
from sartor.extract import NotTaken, over

#: Members of one archive: the largest repositories have some 100,000 files.
ARCHIVE_MEMBERS = 200_000
#: Bytes that one archive, and one member, may unpack to.
ARCHIVE_BYTES = 64 * 2**30
MEMBER_BYTES = 16 * 2**30
#: How many times its own size an archive may unpack to. Text reaches 20, logs and tables 50; deflate ends at 1,032.
ARCHIVE_RATIO = 200
#: Below this the ratio says nothing, in bytes.
_SMALL = 8 * 2**20
#: What tar may read at once: headers with long names. More is no header.
_TAR_HEADER = 2**20
_CHUNK = 2**20

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
#: What the readers of archives raise where one is damaged, or not what they know: numbers that are none and names in no
#: encoding are ValueErrors, headers that announce headers without end are RecursionErrors.
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError),
    *(NotImplementedError, RecursionError),
)


class Damaged(NotTaken):
    """An archive or a member cannot be read; other members may be."""


def is_archive(name: str) -> bool:
    """Does a file of this name have the suffix of an archive that we open?"""
    return name.lower().endswith(_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: its name there, why it cannot be taken ("" if it can), and how it is opened."""

    name: str
    problem: tuple[str, str]
    open: Callable[[], IO[bytes]]


@dataclass(slots=True)
class Meter:
    """What an archive has unpacked to so far."""

    packed: int
    total: int = 0

    def add(self, count: int) -> None:
        """Count bytes that came out.

        Raises:
            NotTaken: `archive_bytes` or `archive_ratio`.
        """
        self.total += count
        if self.total > ARCHIVE_BYTES:
            raise over("archive_bytes", self.total, ARCHIVE_BYTES, "bytes")
        if self.total > max(_SMALL, ARCHIVE_RATIO * self.packed):
            raise over("archive_ratio", self.total / max(1, self.packed), ARCHIVE_RATIO, "times its size")


def read_archive(path: Path, label: str, taste: Taste, trip: Trip) -> Iterator[Found]:
    """What the members of an archive give. Their places are `label!name`."""
    try:
        with _opened(path) as members:
            yield from _members(members, Meter(path.stat().st_size), label, taste, trip, durable.sha256(path))
    except NotTaken as error:
        yield not_taken(label, error.reason, f"the archive is read no further: {error.detail}")


def _members(members: list[Member], meter: Meter, label: str, taste: Taste, trip: Trip, digest: str) -> Iterator[Found]:
    top = _top_folder(members)
    named = {member.name.removeprefix(top): member for member in members if not member.problem[0]}
    facts = facts_of(
        (name for name in named if "/" not in name), lambda name: _beginning(named[name], meter), f"{label}!"
    )
    facts = replace(facts, about={"archive": digest})
    seen: set[str] = set()
    for member in members:
        name = member.name.removeprefix(top)
        place = f"{label}!{name}"
        reason, detail = member.problem
        if not reason and (pattern := ignored(name, (*USUAL, *taste.exclude))):
            reason, detail = "excluded", f"by the pattern {pattern}"
        elif not reason and name in seen:
            reason, detail = "same_name", "the archive has a file of this name already"
        elif not reason and is_archive(name):
            reason, detail = "archive_in_archive", "unpack it, and collect it by itself"
        if reason:
            yield not_taken(place, reason, detail)
            continue
        seen.add(name)
        yield from _member(member, name, place, meter, taste, facts, trip)


def _member(
    member: Member, name: str, place: str, meter: Meter, taste: Taste, facts: Facts, trip: Trip
) -> Iterator[Found]:
    if not media_type_of(name, taste):  # not unpacked only to be left out
        yield from read_file(Path(name), place, taste, facts, trip)
        return
    suffixes = PurePosixPath(name).suffixes[-2 if name.endswith(PACKED) else -1 :]
    try:
        with tempfile.NamedTemporaryFile(suffix="".join(suffixes)) as file:
            _unpack(member, file, meter)
            yield from read_file(Path(file.name), place, taste, facts, trip)
    except Damaged as error:
        yield not_taken(place, error.reason, error.detail)
    except OSError as error:  # of the file that we wrote, so that no member is blamed for a full disk
        raise MachineError(
            f"{place} cannot be unpacked into a temporary file: {error.strerror or error}",
            hint="free some space where temporary files are, or name another folder by TMPDIR, and start it again",
        ) from error


def _unpack(member: Member, target: IO[bytes], meter: Meter) -> None:
    size = 0
    for chunk in _chunks(member):
        size += len(chunk)
        meter.add(len(chunk))
        if size > MEMBER_BYTES:
            raise over("member_bytes", size, MEMBER_BYTES, "bytes")
        target.write(chunk)
    target.flush()


def _chunks(member: Member) -> Iterator[bytes]:
    with _reading(), member.open() as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def _beginning(member: Member, meter: Meter) -> bytes:
    try:
        with _reading(), member.open() as source:
            content = source.read(CARD_BYTES)
    except Damaged:
        return b""  # it is said when its turn comes
    meter.add(len(content))
    return content


@contextmanager
def _reading() -> Iterator[None]:
    """Around what reads an archive, and nothing else.

    Raises:
        Damaged: it cannot be read.
    """
    try:
        yield
    except _BROKEN as error:
        raise Damaged("damaged", str(error).strip()[:200] or type(error).__name__) from error


def _top_folder(members: list[Member]) -> str:
    """The folder that holds everything, with its slash; "" where there is none."""
    tops = {member.name.partition("/")[0] for member in members}
    return f"{tops.pop()}/" if len(tops) == 1 and all("/" in member.name for member in members) else ""


@contextmanager
def _opened(path: Path) -> Iterator[list[Member]]:
    with ExitStack() as stack:
        with _reading():
            if path.name.lower().endswith(".zip"):
                members = _zip_members(stack.enter_context(zipfile.ZipFile(path)))
            else:
                stream: Any = stack.enter_context(_unpacked(path))
                members = list(_tar_members(stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))))
        yield members


def _zip_members(archive: zipfile.ZipFile) -> list[Member]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > ARCHIVE_MEMBERS:
        raise over("archive_members", len(infos), ARCHIVE_MEMBERS, "members")
    return [Member(_name(info.filename), _zip_problem(info), partial(archive.open, info)) for info in infos]


def _zip_problem(info: zipfile.ZipInfo) -> tuple[str, str]:
    if problem := _name_problem(info.orig_filename):
        return problem
    if info.flag_bits & 1:
        return "locked", "it needs a password"
    if (info.external_attr >> 16) & 0o170000 == 0o120000:
        return "link", "a symbolic link"
    return "", ""


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    number = 0
    for info in archive:
        if info.isdir():
            continue
        number += 1
        if number > ARCHIVE_MEMBERS:
            raise over("archive_members", number, ARCHIVE_MEMBERS, "members or more")
        yield Member(_name(info.name), _tar_problem(info), partial(_tar_file, archive, info))


def _tar_file(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None, "only what is a file is opened"
    return file


def _tar_problem(info: tarfile.TarInfo) -> tuple[str, str]:
    if problem := _name_problem(info.name):
        return problem
    if info.issym() or info.islnk():
        return "link", f"it points at {readable(info.linkname[:200])}"
    if not info.isreg() or info.issparse():
        return "not_a_file", "a device, a pipe or a file with holes"
    return "", ""


def _name(name: str) -> str:
    return readable(name.removeprefix("./"))


def _name_problem(name: str) -> tuple[str, str] | None:
    """A name that leads elsewhere is hostile, or written by a tool that is not to be trusted."""
    parts = name.split("/")
    if ".." in parts or name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name) or "\0" in name:
        return "path_traversal", "its name leads out of the archive"
    return None


class _Unpacked(io.RawIOBase):
    """The tar inside of a compression, as the reader of tars sees it, never further than the limits.

    Raises:
        NotTaken: a header wants more than headers have, or the archive is a bomb.
    """

    def __init__(self, stream: IO[bytes], packed: int) -> None:
        self._stream = stream
        self._packed = packed

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _TAR_HEADER:
            raise over("tar_header", size, _TAR_HEADER, "bytes at once")
        self._require(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        if whence == 0:
            self._require(place)
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _require(self, place: int) -> None:
        Meter(self._packed).add(place)


@contextmanager
def _unpacked(path: Path) -> Iterator[_Unpacked]:
    name = path.name.lower()
    with path.open("rb") as packed:
        stream: Any = packed
        if name.endswith((".gz", ".tgz")):
            stream = gzip.GzipFile(fileobj=packed)
        elif name.endswith((".bz2", ".tbz2")):
            stream = bz2.BZ2File(packed)
        elif name.endswith((".xz", ".txz")):
            stream = lzma.LZMAFile(packed)  # noqa: SIM115
        yield _Unpacked(stream, path.stat().st_size)
