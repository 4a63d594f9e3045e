"""Gzip: the rows that it holds, and a limit for what only wants to grow."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from sartor.data.read import Read, read
from sartor.data.reading import unpack
from sartor.errors import DataError

GOOD = b'{"prompt": "q", "completion": "a"}\n'


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


def taken(path: Path, **settings: Any) -> Read:
    return read(path, **({"format": None, "fields": {}, "label": path.name} | settings))


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("rows.jsonl.gz", GOOD * 3000, range(1, 3001)),
        ("rows.json.gz", b"[" + GOOD + b"," + GOOD + b"]", [1, 2]),
        ("rows.json.gz", b"[" + GOOD.strip() + b"," + GOOD + b"]", [1, 2]),
        ("rows.csv.gz", b"prompt,completion\nq,a\n", [2]),
        ("book.txt.gz", b"once\n\nupon\n", [1, 3]),
        ("rows", GOOD, [1]),
    ],
)
def test_what_is_packed_is_read_as_what_it_is(tmp_path: Path, name: str, content: bytes, lines: Any):
    result = taken(packed(tmp_path / name, content))
    assert [example.source.line for example in result.examples] == list(lines)


def test_progress_counts_packed_bytes(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    path = packed(tmp_path / "rows.jsonl.gz", GOOD * 3000)
    taken(path, progress=lambda done, size: calls.append((done, size)))
    assert calls == sorted(calls)
    assert calls[-1] == (path.stat().st_size,) * 2


@pytest.mark.parametrize("cut", [12, -4, -100])
def test_a_gzip_file_that_breaks_off_is_refused(tmp_path: Path, cut: int):
    rows = b"".join(b'{"prompt": "q%d", "completion": "a"}\n' % number for number in range(2000))
    path = packed(tmp_path / "rows.jsonl.gz", rows)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="damaged") as caught:
        taken(path)
    assert caught.value.hint


def test_a_bomb_is_refused_by_a_named_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unpack, "HARMLESS", 2**20)
    path = packed(tmp_path / "rows.jsonl.gz", GOOD + b'{"text": "' + b"y" * 2**24 + b'"}')
    with pytest.raises(DataError, match="200 times its size"):
        taken(path, longest=2**16)
    harmless = packed(tmp_path / "few.jsonl.gz", GOOD * 5000)
    assert taken(harmless).rows == 5000
