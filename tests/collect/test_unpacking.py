"""Archives of strangers: bombs end by a named limit, names lead nowhere, and the rest is read."""

from __future__ import annotations

import gzip
import io
import lzma
import resource
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sartor.collect import Found, Place, Trip, unpacking
from sartor.collect.gather import gather, origin_of
from sartor.collect.reading import Taste
from sartor.collect.unpacking import is_archive, read_archive
from sartor.errors import MachineError
from sartor.types import Document, LedgerEntry

from .site import FakeTime


def found_in(path: Path) -> list[Found]:
    return list(read_archive(path, path.name, Taste(), Trip(path.parent / "state", FakeTime().clock())))


def texts(found: list[Found]) -> dict[str, str]:
    return {member.place: member.text for member in found if isinstance(member, Document)}


def reasons(found: list[Found]) -> dict[str, str]:
    return {entry.file: entry.reason for entry in found if isinstance(entry, LedgerEntry)}


def zipped(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes], *others: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return path


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w:"), (".tar.gz", "w:gz"), (".tar.bz2", "w:bz2"), (".txz", "w:xz")]
)
def test_tars_of_all_kinds_without_their_top_folder(tmp_path: Path, suffix: str, mode: str) -> None:
    licence = b"MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy"
    members = {"repo-main/README.md": b"# Hi\n", "repo-main/docs/a.txt": b"text", "repo-main/LICENSE": licence}
    path = tarred(tmp_path / f"repo{suffix}", members, mode=mode)
    found = found_in(path)
    assert texts(found) == {f"repo{suffix}!README.md": "# Hi\n", f"repo{suffix}!docs/a.txt": "text"}
    assert reasons(found) == {f"repo{suffix}!LICENSE": "describes_the_place"}
    places = [member for member in found if isinstance(member, Place)]
    assert {place.licence for place in places} == {"MIT"}


def test_kaggle_and_cards_name_the_licence(tmp_path: Path) -> None:
    rows = '{"prompt": "a", "completion": "b"}\n'
    kaggle = zipped(
        tmp_path / "k.zip", {"dataset-metadata.json": '{"licenses": [{"name": "CC0-1.0"}]}', "t.jsonl": rows}
    )
    card = zipped(tmp_path / "m.zip", {"README.md": "---\nlicense: apache-2.0\n---\nIt is.", "t.jsonl": rows})
    for path, licence in ((kaggle, "CC0-1.0"), (card, "apache-2.0")):
        places = [place for place in found_in(path) if isinstance(place, Place) and place.place.endswith("jsonl")]
        assert [place.licence for place in places] == [licence] and places[0].about["rows"] == 1


def test_names_that_lead_out_links_devices_and_doubles_are_listed(tmp_path: Path) -> None:
    link, hard, device = tarfile.TarInfo("link.txt"), tarfile.TarInfo("hard.txt"), tarfile.TarInfo("dev.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../x"
    device.type = tarfile.CHRTYPE
    members = {"../up.txt": b"x", "/root.txt": b"x", "a/../../b.txt": b"x", "good.txt": b"good", "c:\\w.txt": b"x"}
    found = found_in(tarred(tmp_path / "a.tar", members, link, hard, device, mode="w:"))
    assert texts(found) == {"a.tar!good.txt": "good"}
    assert reasons(found) == {
        **{f"a.tar!{name}": "path_traversal" for name in members if name != "good.txt"},
        "a.tar!link.txt": "link",
        "a.tar!hard.txt": "link",
        "a.tar!dev.txt": "not_a_file",
    }
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        info = zipfile.ZipInfo("l.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("..\\w.txt", "x")
        archive.writestr("in.zip", "x")
        archive.writestr("a.txt", "first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.txt", "second")
    found = found_in(tmp_path / "b.zip")
    assert texts(found) == {"b.zip!a.txt": "first"}
    assert sorted(reasons(found).values()) == ["archive_in_archive", "link", "path_traversal", "same_name"]


def flat(path: Path) -> None:
    zipped(path, {"bomb.txt": b"0" * 30_000_000})


def packed_tar(path: Path) -> None:
    tarred(path, {"bomb.txt": b"0" * 30_000_000})


def packed_xz(path: Path) -> None:
    tarred(path, {"bomb.txt": b"0" * 30_000_000}, mode="w:xz")


def long_name(path: Path) -> None:
    """A header that says that the next name has a hundred megabytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 100_000_000
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"a" * 2_000_000))


def huge_size(path: Path) -> None:
    info = tarfile.TarInfo("a.bin")
    info.size = 2**40
    path.write_bytes(lzma.compress(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 100_000))


@pytest.mark.parametrize(
    ("make", "name", "limit"),
    [
        (flat, "a.zip", "archive_ratio"),
        (packed_tar, "a.tar.gz", "archive_ratio"),
        (packed_xz, "a.tar.xz", "archive_ratio"),
        (long_name, "a.tar.gz", "tar_header"),
        (huge_size, "a.tar.xz", "archive_bytes"),
    ],
)
def test_bombs_end_by_a_named_limit(tmp_path: Path, make: Callable[[Path], None], name: str, limit: str) -> None:
    make(tmp_path / name)
    found = found_in(tmp_path / name)
    assert texts(found) == {} and limit in reasons(found).values()
    entry = next(entry for entry in found if isinstance(entry, LedgerEntry) and entry.reason == limit)
    assert limit in entry.detail


def test_the_number_and_size_of_members_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members: dict[str, bytes | str] = {f"{number}.txt": "x" for number in range(12)}
    monkeypatch.setattr(unpacking, "ARCHIVE_MEMBERS", 10)
    assert reasons(found_in(zipped(tmp_path / "a.zip", members))) == {"a.zip": "archive_members"}
    path = tarred(tmp_path / "a.tar.gz", dict.fromkeys(members, b"x"))
    assert reasons(found_in(path)) == {"a.tar.gz": "archive_members"}
    monkeypatch.setattr(unpacking, "MEMBER_BYTES", 100)
    assert reasons(found_in(zipped(tmp_path / "b.zip", {"a.txt": "y" * 101}))) == {"b.zip": "member_bytes"}


def test_what_breaks_off_is_said_and_what_stands_before_it_is_kept(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.txt": "first", "b.txt": "second" * 1000})
    data = bytearray(path.read_bytes())
    spot = data.find(b"b.txt") + 8
    data[spot : spot + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    found = found_in(path)
    assert texts(found) == {"a.zip!a.txt": "first"} and reasons(found) == {"a.zip!b.txt": "damaged"}
    for name in ("b.zip", "b.tar.gz", "b.tar", "b.tar.xz"):
        (tmp_path / name).write_bytes(b"no archive at all, of any kind" * 40)
        assert reasons(found_in(tmp_path / name)) == {name: "damaged"}


def sparse(**headers: str) -> bytes:
    """A tar whose file says that it has holes, where none are described."""
    info = tarfile.TarInfo("a.txt")
    info.size, info.pax_headers = 4, {f"GNU.sparse.{name}": value for name, value in headers.items()}
    return info.tobuf(tarfile.PAX_FORMAT) + b"text".ljust(512, b"\0")


def in_no_encoding(times: int) -> bytes:
    """A zip of one member, whose name is said to be UTF-8 and is not: in its own header, and in the directory too."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("é.txt", "text")
    return made.getvalue().replace("é".encode(), b"\xe9.", times)


#: Headers that each announce another.
ENDLESS = sparse(comment="")[:1024] * 5000


@pytest.mark.parametrize(
    ("name", "content", "member"),
    [
        ("a.tar", sparse(map="a,b"), ""),
        ("a.tar", sparse(major="1", minor="0"), ""),
        ("a.tar", ENDLESS, ""),
        ("a.tar.gz", gzip.compress(sparse(size="many", name="x", map="0,1")), ""),
        ("a.zip", in_no_encoding(1), "!é.txt"),
        ("a.zip", in_no_encoding(2), ""),
    ],
    ids=["map", "version", "endless", "size", "member", "directory"],
)
def test_what_an_archive_says_and_cannot_mean_is_damage(tmp_path: Path, name: str, content: bytes, member: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert reasons(found_in(tmp_path / name)) == {f"{name}{member}": "damaged"}


def test_names_that_are_not_utf8_are_readable(tmp_path: Path) -> None:
    link = tarfile.TarInfo("é.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/é"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("top/é.md", "top/ü/a.md"):
            archive.addfile(tarfile.TarInfo(name))
        archive.addfile(link)
    found = found_in(tmp_path / "a.tar")
    assert reasons(found) == {r"a.tar!top/\xe9.md": "empty", r"a.tar!top/\xfc/a.md": "empty", r"a.tar!\xe9.txt": "link"}
    assert all(entry.model_dump_json() for entry in found)


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    """What this process may write at most stands for the room of a disk."""
    zipped(tmp_path / "a.zip", {"a.txt": "few", "b.txt": "words " * 100_000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(MachineError, match=r"a\.zip!b\.txt cannot be unpacked .*: File too large"):
            gather([origin_of("a.zip", root=tmp_path)], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists()


def test_archives_are_known_by_their_suffix() -> None:
    assert all(map(is_archive, ("a.zip", "A.TAR.GZ", "a.tgz", "a.tar", "a.txz"))) and not is_archive("a.gz")
