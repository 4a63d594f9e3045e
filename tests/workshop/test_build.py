"""The step `build`: documents or tables, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor import durable
from sartor.ask import Answer
from sartor.data.folder import card, making, open_folder
from sartor.data.prepare import num_tokens
from sartor.errors import DataError, RecipeError
from sartor.recipe import validated
from sartor.types import Document, Text
from sartor.workshop import Job, build
from sartor.workshop.knowing import renderer_of

from ..augment.makers import FakeAsker  # noqa: TID252 - the tests are no package

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


def test_chunks_are_measured_in_tokens_of_the_model_that_is_named(tmp_path: Path) -> None:
    model = "smollm2-135m-instruct"
    builder = {"name": "text", "chunks": {"size": 50, "unit": "tokens"}}
    source = documents(tmp_path)
    found = list(open_folder(built(tmp_path, source, builder=builder, model=model), "out").examples())
    sizes = [num_tokens(example, renderer_of(model)) for example in found]
    assert len(sizes) == 2
    assert 40 < max(sizes) <= 50 < sum(sizes)
    with pytest.raises(RecipeError, match="in tokens, and no model is named"):
        built(tmp_path, source, builder=builder)


def test_progress_has_its_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    asker = FakeAsker(lambda question: Answer(question.key, "nothing"))
    monkeypatch.setattr(build, "open_asker", lambda who: asker)
    config = validated(build.Config, {"builder": "qa"}, "build")
    job = Job(tmp_path / "out", tmp_path, documents(tmp_path), progress=lambda done, total: told.append((done, total)))
    build.run(job, config)
    assert told == [(1, 1)]


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
