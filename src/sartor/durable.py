"""The only writer. A file or folder appears whole or not at all, and every folder we rely on carries checksums.

The write path (source: `docs/why/durability.md`): write to a staging name beside the target, fsync each file, write
`manifest.json` with sizes and SHA-256 last, fsync the folder, one rename, fsync the parent. A reader that meets a
folder without a manifest, or with a wrong checksum, does not use it.

Each file operation passes a failpoint: `SARTOR_FAILPOINT=7:kill` kills this process before its 7th operation,
`7:ENOSPC` makes the 7th operation fail as a full disk does. Tests enumerate them all; users may try too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sartor.errors import MachineError
from sartor.types import Json

MANIFEST = "manifest.json"
STAGING = ".staging-"
FAILPOINT = "SARTOR_FAILPOINT"

_OLD = f"{STAGING}old-"

#: safetensors and tokenizers raise classes of their own when the disk fails, with the system's number in the words.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")

_operations = itertools.count(1)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write one file: whole or not at all, on disk when this returns.

    Raises:
        MachineError: the disk is full or fails; the old file is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    staging = path.with_name(f"{STAGING}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_file(staging, data)
        _rename(staging, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)
        raise _machine_error(error, path) from error


def write_json(path: Path, value: Json) -> None:
    """Write one JSON document, indented, keys in the order given."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A folder that appears whole: fill the yielded staging folder; leaving the block seals and renames it.

    An existing folder of that name is replaced. On any exception the staging folder is removed and the old one stays.
    Killed between the two renames of a replacement, the old one stands aside until `clear_staging` puts it back.

    Raises:
        MachineError: the disk is full or fails.
    """
    staging = path.with_name(f"{STAGING}{os.getpid()}-{path.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        seal(staging)
        if path.exists():
            _replace_dir(staging, path)
        else:
            _rename(staging, path)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise _machine_error(error, path) from error
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        number = _RUST_ERROR.search(str(error))
        if number:
            raise _machine_error(OSError(int(number[1]), os.strerror(int(number[1]))), path) from error
        raise


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a sealed folder's manifest; empty where there is neither."""
    file = path / MANIFEST if path.is_dir() else path
    return sha256(file) if file.is_file() else ""


def seal(folder: Path) -> None:
    """Fsync every file and folder of a folder and write its manifest, last."""
    manifest = folder / MANIFEST
    files: dict[str, Json] = {}
    for item in sorted(folder.rglob("*")):
        if item.is_dir():
            _fsync_dir(item)
        elif item != manifest:
            _operation()
            with item.open("rb") as handle:
                os.fsync(handle.fileno())
            files[item.relative_to(folder).as_posix()] = {"bytes": item.stat().st_size, "sha256": sha256(item)}
    _write_file(manifest, _manifest_text(files).encode())
    _fsync_dir(folder)


def verify(folder: Path) -> str:
    """What is wrong with a sealed folder, in words; empty when every file is there with its checksum."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"{folder.name} has no {MANIFEST}: it was never finished"
    try:
        text = manifest.read_text(encoding="utf-8")
        files = json.loads(text)["files"]
        if text != _manifest_text(files):  # the checksums vouch for the files, this for the manifest itself
            return f"{folder.name}/{MANIFEST} is damaged: it is not as it was written"
        for name, facts in files.items():
            file = folder / name
            if not file.is_file():
                return f"{folder.name}/{name} is missing"
            if file.stat().st_size != facts["bytes"] or sha256(file) != facts["sha256"]:
                return f"{folder.name}/{name} does not match its checksum"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder.name}/{MANIFEST} is damaged: {error}"
    except OSError as error:
        return f"{folder.name} cannot be read: {error.strerror}"
    return ""


def _manifest_text(files: Json) -> str:
    return json.dumps({"schema": 1, "files": files}, indent=2) + "\n"


def opened(path: Path) -> IO[str]:
    """A new file inside a folder that `atomic_dir` makes, to be written piece by piece: sealing puts it on disk."""
    _operation()
    return path.open("w", encoding="utf-8")


def append(path: Path, line: str) -> None:
    """Append one line. A line torn by a power cut is skipped by `read_lines`, and never swallows the next one.

    Raises:
        MachineError: the disk is full or fails.
    """
    try:
        _operation()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as handle:
            handle.write(_line_end(handle) + line.encode("utf-8") + b"\n")
    except OSError as error:
        raise _machine_error(error, path) from error


def _line_end(handle: IO[bytes]) -> bytes:
    """What ends the last line of a file, if it was torn."""
    if not handle.seek(0, os.SEEK_END):
        return b""
    handle.seek(-1, os.SEEK_END)
    return b"" if handle.read(1) == b"\n" else b"\n"


def read_lines(path: Path) -> Iterator[Json]:
    """The JSON lines of a file; a torn line (a power cut while appending) is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        for raw in handle:
            try:
                yield json.loads(raw)
            except ValueError:
                continue


def remove_dir(path: Path) -> None:
    """Remove a folder so that a half-removed one is never mistaken for a whole one: the manifest goes first.

    Raises:
        MachineError: the disk fails.
    """
    try:
        _operation()
        (path / MANIFEST).unlink(missing_ok=True)
        _operation()
    except OSError as error:
        raise _machine_error(error, path) from error
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file: one process at a time, the others wait. The file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def clear_staging(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, and put back what stood aside for it.

    Only for a folder that no other process writes to now.
    """
    for leftover in list(folder.glob(f"{STAGING}*")):
        name = leftover.name.removeprefix(_OLD)
        if name != leftover.name and not (folder / name).exists():
            leftover.rename(folder / name)
        else:
            _remove(leftover)


def clear_killed(path: Path) -> None:
    """Remove what killed processes left half-written of one file or folder. Others may be at work beside it."""
    for leftover in path.parent.glob(f"{STAGING}[0-9]*-{path.name}"):
        number = leftover.name.removeprefix(STAGING).removesuffix(f"-{path.name}")
        if number.isdecimal() and not is_running(int(number)):
            _remove(leftover)


def _remove(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_file(path: Path, data: bytes) -> None:
    _operation()
    with path.open("wb") as handle:
        _write_all(handle, data)


def _write_all(handle: IO[bytes], data: bytes) -> None:
    _operation()
    handle.write(data)
    handle.flush()
    _operation()
    os.fsync(handle.fileno())


def _rename(source: Path, target: Path) -> None:
    _operation()
    source.replace(target)
    _fsync_dir(target.parent)


def _replace_dir(staging: Path, path: Path) -> None:
    """POSIX cannot rename over a full folder: the old one steps aside first, and comes back if the new one cannot."""
    old = path.with_name(f"{_OLD}{path.name}")
    shutil.rmtree(old, ignore_errors=True)
    _operation()
    path.rename(old)
    try:
        _rename(staging, path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _fsync_dir(folder: Path) -> None:
    _operation()
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _operation() -> None:
    """One file operation is about to happen: the failpoint, when this is the one that it names."""
    spec = os.environ.get(FAILPOINT)
    if not spec:
        return
    number, _, action = spec.partition(":")
    if next(_operations) != int(number):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    code = errno.ENOSPC if action == "ENOSPC" else errno.EIO
    raise OSError(code, os.strerror(code))


def _machine_error(error: OSError, path: Path) -> MachineError:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(_existing(path)).free
        return MachineError(
            f"the disk is full: writing {path.name} failed with {free / 2**20:.0f} MiB free",
            hint="free some space and start the same command again; what was saved before is whole",
        )
    return MachineError(
        f"writing {path.name} failed: {error.strerror or error}", hint="check the disk, then start the command again"
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
