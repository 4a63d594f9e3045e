"""The step `build`: documents or tables, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor import durable
from sartor.data.folder import card, making, open_folder
from sartor.errors import DataError, RecipeError
from sartor.recipe import validated
from sartor.types import Document, Text
from sartor.workshop import Job, build

PAGE = "A tailor measures twice and cuts once. The cloth is laid out flat, and the chalk is sharp.\n\n" * 3


def documents(root: Path) -> Path:
    with making(root / "docs") as folder:
        folder.keep(Document(place="a.md", text=PAGE, digest="0" * 64, time="2026-01-01T00:00:00+00:00"))
        folder.finish(card("Docs", [], {}))
    return root / "docs"


def built(root: Path, source: Path, **settings: object) -> Path:
    build.run(Job(root / "out", root, source), validated(build.Config, settings, "build"))
    return root / "out"


def test_documents_become_running_text_of_their_family(tmp_path: Path) -> None:
    found = list(open_folder(built(tmp_path, documents(tmp_path), builder="text"), "out").examples())
    assert found
    assert all(isinstance(example, Text) and example.source.origin == "a.md" for example in found)


def test_rows_of_a_table_become_examples(tmp_path: Path) -> None:
    durable.atomic_write(tmp_path / "t.csv", "body,queue\nBroken,repairs\nLost,office\n")
    builder = {"name": "classify", "input": "body", "label": "queue"}
    assert len(list(open_folder(built(tmp_path, tmp_path / "t.csv", builder=builder), "out").examples())) == 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    durable.atomic_write(tmp_path / "t.csv", "body,queue\nBroken,repairs\n")
    with pytest.raises(DataError, match="is no data folder"):
        built(tmp_path, tmp_path / "t.csv", builder="text")
    with pytest.raises(DataError, match="is a data folder, and classify reads a table"):
        built(tmp_path, documents(tmp_path), builder={"name": "classify", "input": "body", "label": "queue"})
    with pytest.raises(RecipeError, match="unknown builder 'txt'"):
        built(tmp_path, documents(tmp_path), builder="txt")
