"""The step `collect`: places with and without options, found again by what decides them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor.data.folder import open_folder
from sartor.errors import DataError, RecipeError
from sartor.recipe import validated
from sartor.workshop import Job, collect


def config(**settings: object) -> collect.Config:
    made: collect.Config = validated(collect.Config, settings, "collect")
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\nA page about {name}.\n", encoding="utf-8")
    return tmp_path


def test_documents_are_collected_from_all_places(root: Path) -> None:
    collect.run(Job(root / "out", root), config(places=["docs/one.md", {"place": "docs/two.md"}]))
    folder = open_folder(root / "out", "out")
    assert [document.place for document in folder.documents()] == ["docs/one.md", "docs/two.md"]


@pytest.mark.parametrize("place", ["docs", "docs/*.md", "{root}/docs"])
def test_what_decides_it_are_the_files(root: Path, place: str) -> None:
    asked = config(places=[place.format(root=root)])
    before = collect.inputs(asked, root)
    assert collect.inputs(asked, root) == before
    (root / "docs" / "one.md").write_text("# another one\n", encoding="utf-8")
    changed = collect.inputs(asked, root)
    assert changed != before
    (root / "docs" / "three.md").write_text("# three\n", encoding="utf-8")
    assert collect.inputs(asked, root) not in (before, changed)


@pytest.mark.parametrize("place", ["https://example.org/", "hf:owner/name@main"])
def test_what_lies_elsewhere_is_fetched_once(root: Path, place: str) -> None:
    assert [files for _, files in collect.inputs(config(places=[place]), root)] in ([], [[]])


def test_a_place_is_no_option(root: Path) -> None:
    with pytest.raises(RecipeError, match="root"):
        collect.run(Job(root / "out", root), config(places=[{"place": "docs", "root": "/"}]))


def test_a_place_without_its_name_is_refused(root: Path) -> None:
    with pytest.raises(RecipeError, match="without a `place`"):
        collect.run(Job(root / "out", root), config(places=[{"pages": 3}]))


def test_an_option_that_a_place_does_not_have_is_refused(root: Path) -> None:
    with pytest.raises(RecipeError, match="pagez"):
        collect.run(Job(root / "out", root), config(places=["docs"], options={"pagez": 3}))


def test_a_place_with_nothing_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="there is nothing at docz"):
        collect.run(Job(root / "out", root), config(places=["docz"]))
