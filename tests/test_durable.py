"""A file or folder appears whole or not at all: every fault at every operation, tried in processes of their own."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sartor import durable
from sartor.errors import MachineError

FAULTS = ("kill", "ENOSPC", "EIO")
MOST_OPERATIONS = 60
DONE, REFUSED, CRASHED = 0, 3, 4

# ---- every fault at every operation ----------------------------------------------------------------------------------


def in_child(work: Callable[[], object], failpoint: str) -> int:
    """Do the work in a forked process with a failpoint set; its exit code, or minus the signal that ended it.

    The counter of operations is the process's, so the fork comes before the first one is counted.
    """
    child = os.fork()
    if child == 0:
        code = CRASHED
        try:
            os.environ[durable.FAILPOINT] = failpoint
            work()
            code = DONE
        except MachineError:
            code = REFUSED
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def every_fault(
    work: Callable[[Path], object], folder: Path, *, before: Callable[[Path], object] = lambda place: None
) -> Iterator[tuple[str, Path]]:
    """(fault, folder) after each kind of fault at each operation of the work, until it gets through untouched."""
    for fault in FAULTS:
        for number in range(1, MOST_OPERATIONS):
            place = folder / f"{fault}-{number}"
            place.mkdir()
            before(place)
            code = in_child(lambda place=place: work(place), f"{number}:{fault}")  # type: ignore[misc]
            if code == DONE:
                assert number > 4, "the work passes no failpoints"
                break
            assert code == (-signal.SIGKILL if fault == "kill" else REFUSED), f"{fault} at {number}: exit code {code}"
            yield fault, place
        else:
            pytest.fail("the work never got through")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(f"{durable.STAGING}*")]


def test_atomic_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    old, new = "old" * 1000, "new" * 3000
    seen = set()
    for fault, folder in every_fault(
        lambda place: durable.atomic_write(place / "file", new),
        tmp_path,
        before=lambda place: (place / "file").write_text(old),
    ):
        content = (folder / "file").read_text()
        assert content in (old, new)
        seen.add(content)
        if fault != "kill":
            assert leftovers(folder) == []
        durable.clear_staging(folder)
        assert [path.name for path in folder.iterdir()] == ["file"]
        assert (folder / "file").read_text() == content
    assert seen == {old, new}


def fill(folder: Path, text: str) -> None:
    (folder / "weights.bin").write_bytes(text.encode() * 500)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "state.json").write_text(json.dumps({"content": text}))
    durable.write_json(folder / "more.json", {"content": text})


def write_dir(place: Path, text: str) -> None:
    with durable.atomic_dir(place / "folder") as staging:
        fill(staging, text)


def write_old(place: Path) -> None:
    write_dir(place, "old")


def write_new(place: Path) -> None:
    write_dir(place, "new")


def content_of(folder: Path) -> str:
    """What `fill` put into a sealed folder, all of which must agree."""
    assert durable.verify(folder) == ""
    text = str(json.loads((folder / "more.json").read_text())["content"])
    assert (folder / "weights.bin").read_bytes() == text.encode() * 500
    assert json.loads((folder / "deeper" / "state.json").read_text()) == {"content": text}
    return text


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    there = set()
    for fault, place in every_fault(write_new, tmp_path):
        folder = place / "folder"
        if folder.exists():
            assert content_of(folder) == "new"
        if fault != "kill":
            assert leftovers(place) == []
        durable.clear_staging(place)
        assert leftovers(place) == []
        there.add(folder.exists())
    assert there == {True, False}


def test_a_replaced_folder_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    seen = set()
    aside = 0
    for fault, place in every_fault(write_new, tmp_path, before=write_old):
        folder = place / "folder"
        aside += not folder.exists()
        if fault != "kill":
            assert folder.exists()
        else:
            durable.clear_staging(place)
        seen.add(content_of(folder))
        durable.clear_staging(place)
        assert [path.name for path in place.iterdir()] == ["folder"]
    assert seen == {"old", "new"}
    assert aside == 1, "only a kill between the two renames needs `clear_staging` to put the old folder back"


def test_after_a_kill_between_the_renames_the_work_can_be_done_again(tmp_path: Path) -> None:
    for _, place in every_fault(write_new, tmp_path, before=write_old):
        write_dir(place, "newer")
        assert content_of(place / "folder") == "newer"
        durable.clear_staging(place)
        assert content_of(place / "folder") == "newer"
        assert leftovers(place) == []


def test_a_removed_folder_is_whole_or_does_not_verify(tmp_path: Path) -> None:
    write_old(tmp_path)
    for number, whole in ((1, True), (2, False)):
        assert in_child(lambda: durable.remove_dir(tmp_path / "folder"), f"{number}:kill") == -signal.SIGKILL
        assert (durable.verify(tmp_path / "folder") == "") is whole
        assert in_child(lambda: durable.remove_dir(tmp_path / "folder"), f"{number}:EIO") == REFUSED
    durable.remove_dir(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_an_append_that_fails_says_so(tmp_path: Path) -> None:
    assert in_child(lambda: durable.append(tmp_path / "events.jsonl", "{}"), "1:ENOSPC") == REFUSED
    assert not (tmp_path / "events.jsonl").exists()


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    said = pytest.raises(MachineError, match=r"disk is full: writing folder failed with \d+ MiB free")
    with said as caught, durable.atomic_dir(tmp_path / "folder"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "what was saved before is whole" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


class RustError(Exception):
    """What safetensors and tokenizers raise when the disk fails: no OSError, no errno."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "the disk is full"),
        ("Input/output error (os error 5)", "writing folder failed: Input/output error"),
    ],
)
def test_a_disk_error_of_a_library_in_rust_is_understood(tmp_path: Path, words: str, said: str) -> None:
    with pytest.raises(MachineError, match=said), durable.atomic_dir(tmp_path / "folder"):
        raise RustError(words)
    assert list(tmp_path.iterdir()) == []


def test_any_other_error_passes_and_leaves_the_old_folder(tmp_path: Path) -> None:
    write_old(tmp_path)
    with pytest.raises(RustError, match="something else"), durable.atomic_dir(tmp_path / "folder") as staging:
        (staging / "half").write_text("half")
        raise RustError("something else")
    assert content_of(tmp_path / "folder") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_writing_below_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (durable.atomic_write, durable.append):
        with pytest.raises(MachineError, match="writing x failed"):
            write(tmp_path / "file" / "x", "text")
    with pytest.raises(MachineError, match="writing x failed"), durable.atomic_dir(tmp_path / "file" / "x"):
        pass


# ---- verify ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A small folder: twins, so that a damaged name in the manifest meets a file with the very same content."""
    with durable.atomic_dir(tmp_path / "sealed") as staging:
        (staging / "a0").write_bytes(b"twin")
        (staging / "a1").write_bytes(b"twin")
        (staging / "empty").write_bytes(b"")
        (staging / "deeper").mkdir()
        (staging / "deeper" / durable.MANIFEST).write_text("a manifest of somebody else")
    return tmp_path / "sealed"


def test_a_sealed_folder_verifies(sealed: Path) -> None:
    assert durable.verify(sealed) == ""
    listed = json.loads((sealed / durable.MANIFEST).read_text())
    assert listed["schema"] == 1
    assert list(listed["files"]) == ["a0", "a1", "deeper/manifest.json", "empty"]
    assert listed["files"]["a0"] == {"bytes": 4, "sha256": durable.sha256(sealed / "a1")}


def test_any_flipped_bit_of_any_file_is_found(sealed: Path) -> None:
    for file in [path for path in sealed.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        for place in range(len(whole)):
            for bit in range(8):
                file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
                assert durable.verify(sealed), f"{file.name}: bit {bit} of byte {place}"
        file.write_bytes(whole)
    assert durable.verify(sealed) == ""


def test_missing_and_cut_files_are_named(sealed: Path) -> None:
    (sealed / "a1").write_bytes(b"twi")
    assert durable.verify(sealed) == "sealed/a1 does not match its checksum"
    (sealed / "a1").unlink()
    assert durable.verify(sealed) == "sealed/a1 is missing"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"files": []}', '{"files": {"a0": 1}}', '{"files": {"a0": {}}}', "\ufffd"]
)
def test_a_damaged_manifest_is_found(sealed: Path, text: str) -> None:
    (sealed / durable.MANIFEST).write_text(text)
    assert "manifest.json is damaged" in durable.verify(sealed)
    (sealed / durable.MANIFEST).write_bytes(text.encode() + b"\xff")
    assert "manifest.json is damaged" in durable.verify(sealed)


def test_a_folder_without_a_manifest_was_never_finished(sealed: Path) -> None:
    (sealed / durable.MANIFEST).unlink()
    assert durable.verify(sealed) == "sealed has no manifest.json: it was never finished"
    assert "never finished" in durable.verify(sealed / "nowhere")


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_lines_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    assert list(durable.read_lines(path)) == []
    rows = [{"n": number, "text": "Zürich 🧵\u2028"} for number in range(3)]
    for row in rows:
        durable.append(path, json.dumps(row, ensure_ascii=False))
    assert list(durable.read_lines(path)) == rows


def test_a_torn_line_is_passed_over_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    line = json.dumps({"text": "Zürich"}, ensure_ascii=False).encode()
    for length in range(len(line)):
        path = tmp_path / f"{length}.jsonl"
        path.write_bytes(b'{"first": 1}\n' + line[:length])
        assert list(durable.read_lines(path)) == [{"first": 1}]
        durable.append(path, '{"next": 2}')
        assert list(durable.read_lines(path)) == [{"first": 1}, {"next": 2}]


def test_zeros_left_by_a_power_cut_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"first": 1}\n' + bytes(40))
    durable.append(path, '{"next": 2}')
    assert list(durable.read_lines(path)) == [{"first": 1}, {"next": 2}]


def test_what_killed_processes_left_of_one_folder_is_removed_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait()
    gone = tmp_path / f"{durable.STAGING}{done.pid}-out"
    stays = [tmp_path / f"{durable.STAGING}{os.getpid()}-out", tmp_path / f"{durable.STAGING}{done.pid}-other"]
    for folder in (gone, *stays):
        folder.mkdir()
    durable.clear_killed(tmp_path / "out")
    assert [folder.exists() for folder in (gone, *stays)] == [False, True, True]
