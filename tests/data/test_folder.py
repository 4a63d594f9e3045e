"""Data folders: streamed in, whole or not there, read again as they were written, and damage is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor.data.folder import (
    CARD,
    EXAMPLES,
    LEDGER,
    DataFolder,
    card,
    is_data_folder,
    label_of,
    making,
    open_folder,
    told,
)
from sartor.errors import DataError, SartorError
from sartor.types import Document, Example, LedgerEntry, Message, Pair, Source, Text, Unpaired

SOURCE = Source(file="a.jsonl", line=1)
ASKED = (Message(role="user", content="Who?"),)
YES, NO = Message(role="assistant", content="She."), Message(role="assistant", content="He.")
ROWS: list[Example] = [
    Text(source=SOURCE, text="zwölf\u2028Boxkämpfer"),
    Pair(source=Source(file="a.jsonl", line=2, origin="b:1"), prompt=ASKED, chosen=YES, rejected=NO),
    Unpaired(source=Source(file="a.jsonl", line=3), prompt=ASKED, answer=NO, good=False),
]
GONE = LedgerEntry(action="dropped", file="a.jsonl", line=4, reason="pii", detail="an address")


def made(path: Path, *rows: Example | Document, tells: tuple[LedgerEntry, ...] = ()) -> DataFolder:
    with making(path) as folder:
        folder.keep(*rows)
        folder.tell(*tells)
        folder.finish(card("Rows", [("from", "a.jsonl")], told(folder.counts)))
    return open_folder(path, path.name)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folder = made(tmp_path / "set", *ROWS, tells=(GONE,))
    assert list(folder.examples()) == list(folder.examples()) == ROWS
    assert list(folder.ledger()) == [GONE]
    assert not folder.holds_documents
    assert (folder.path / CARD).read_text("utf-8") == (
        "# Rows\n\n- from: a.jsonl\n\n| what | rows |\n|---|---|\n| dropped: pii | 1 |\n"
    )


def test_documents_are_read_again(tmp_path: Path) -> None:
    document = Document(place="a.zip!b.md", text="# B", digest="0" * 64, time="2026-01-01T00:00:00Z")
    folder = made(tmp_path / "set", document)
    assert (folder.holds_documents, list(folder.documents())) == (True, [document])


def test_the_same_rows_have_the_same_digest(tmp_path: Path) -> None:
    assert made(tmp_path / "one", *ROWS).digest == made(tmp_path / "two", *ROWS).digest
    assert made(tmp_path / "one", *ROWS[1:]).digest != made(tmp_path / "two", *ROWS).digest


def test_a_set_of_nothing_is_one(tmp_path: Path) -> None:
    folder = made(tmp_path / "set", tells=(GONE,))
    assert list(folder.examples()) == []
    assert {path.name for path in folder.path.iterdir()} == {EXAMPLES, LEDGER, CARD, "manifest.json"}


def test_what_fails_leaves_the_old_one(tmp_path: Path) -> None:
    before = made(tmp_path / "set", *ROWS).digest
    with (
        pytest.raises(SartorError, match="5 rows came in, 1 were kept and 1 dropped"),
        making(tmp_path / "set") as folder,
    ):
        folder.keep(ROWS[0])
        folder.tell(GONE)
        folder.balance(5)
    assert open_folder(tmp_path / "set", "set").digest == before


def test_damage_is_found(tmp_path: Path) -> None:
    folder = made(tmp_path / "set", *ROWS)
    (folder.path / EXAMPLES).write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="the data folder set is damaged"):
        open_folder(folder.path, "set")


def test_another_folder_is_none(tmp_path: Path) -> None:
    assert not is_data_folder(tmp_path)
    with pytest.raises(DataError, match="is no data folder"):
        open_folder(tmp_path, "here")


@pytest.mark.parametrize(
    ("source", "root", "name"),
    [
        ("x/rows.jsonl", "", "x/rows.jsonl"),
        ("./x/rows.jsonl", "", "x/rows.jsonl"),
        ("/home/x/rows.jsonl", "/home", "x/rows.jsonl"),
        ("/home/x/rows.jsonl", "", "rows.jsonl"),
    ],
)
def test_files_of_one_name_are_told_apart_below_the_root(source: str, root: str, name: str) -> None:
    assert label_of(Path(source), Path(root)) == name
