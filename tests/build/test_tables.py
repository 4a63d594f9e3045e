"""Rows of tables become examples, or entries in the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sartor.build.tables import build_table
from sartor.data.folder import DataFolder
from sartor.errors import DataError, RecipeError
from sartor.recipe import Named
from sartor.types import Chat

TICKETS = """subject,body,queue,product,stars
Refund,I want my money back,billing,Kettle,1
Broken,"It leaks, badly",repairs,Kettle,2
Hello,,billing,,
Nothing,Just looking,,,5
Odd,What is this?,unknown,Toaster,3
"""
CLASSIFY = {"input": "Subject: {subject}\n{body}", "label": "queue"}


def built(folder: Path, name: str, settings: dict[str, object], text: str = TICKETS, file: str = "t.csv") -> DataFolder:
    (folder / file).write_text(text)
    return build_table(folder / file, file, Named(name=name, settings=settings), folder / "made", "made")


def chats(folder: DataFolder) -> list[Chat]:
    return [example for example in folder.examples() if isinstance(example, Chat)]


def test_labels(tmp_path: Path) -> None:
    folder = built(tmp_path, "classify", CLASSIFY)
    assert [(example.id, example.target) for example in chats(folder)] == [
        ("t.csv:2", "billing"),
        ("t.csv:3", "repairs"),
        ("t.csv:4", "billing"),
        ("t.csv:6", "unknown"),
    ]
    assert chats(folder)[1].prompt[0].content == "Subject: Broken\nIt leaks, badly"
    assert [(entry.line, entry.field, entry.reason) for entry in folder.ledger()] == [(5, "queue", "field")]


def test_labels_with_other_words_and_an_instruction(tmp_path: Path) -> None:
    settings = {
        **CLASSIFY,
        "labels": {"billing": "money", "repairs": "repair"},
        "instruction": "Answer with one of: {labels}.",
    }
    folder = built(tmp_path, "classify", settings)
    assert [example.target for example in chats(folder)] == ["money", "repair", "money"]
    assert chats(folder)[0].prompt[0].content.startswith("Answer with one of: money, repair.\n\nSubject")
    assert [entry.line for entry in folder.ledger()] == [5, 6]


def test_fields(tmp_path: Path) -> None:
    settings = {"input": "body", "fields": {"what": "product", "stars": "stars"}}
    folder = built(tmp_path, "extract", settings)
    assert [json.loads(example.target)["what"] for example in chats(folder)] == ["Kettle", "Kettle", None, "Toaster"]
    assert "with the keys what, stars" in chats(folder)[0].prompt[0].content
    assert [(entry.line, entry.reason) for entry in folder.ledger()] == [(4, "field")]


def test_values_keep_their_types(tmp_path: Path) -> None:
    row = {"body": "Five kettles, red", "count": 5, "colour": ["red"], "gone": None}
    settings = {"input": "body", "fields": {"count": "count", "colour": "colour", "gone": "gone"}}
    folder = built(tmp_path, "extract", settings, json.dumps(row) + "\n", "t.jsonl")
    assert json.loads(chats(folder)[0].target) == {"count": 5, "colour": ["red"], "gone": None}


def test_rows_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    text = '{"a": "x", "b": "y"}\n{"a": \n[1]\n'
    folder = built(tmp_path, "classify", {"input": "a", "label": "b"}, text, "t.jsonl")
    assert [(entry.line, entry.reason) for entry in folder.ledger()] == [(2, "syntax"), (3, "not_an_object")]
    assert "| rows | 3 |" in (folder.path / "card.md").read_text()


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`qeue`") as found:
        built(tmp_path, "classify", {"input": "body", "label": "qeue"})
    assert "name the columns" in found.value.hint
    assert not (tmp_path / "made").exists()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="reads documents"):
        built(tmp_path, "qa", {})
    with pytest.raises(RecipeError, match="label"):
        built(tmp_path, "classify", {"input": "body"})
