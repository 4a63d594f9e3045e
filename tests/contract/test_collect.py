"""Every source keeps its contract: it knows its places, no two claim one, and its settings are frozen with defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sartor import collect, names
from sartor.collect.gather import REST, origin_of
from sartor.errors import RecipeError

SOURCES = names.known(collect.KIND)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    for name in ("a.md", "a.zip", "a.tar.gz", "rows.jsonl"):
        (tmp_path / name).write_text("x")
    (tmp_path / "chats.jsonl").write_text('{"kind": "sartor.chats", "version": 1, "started": "now"}\n')
    return tmp_path


PLACES = {
    "a.md": "files",
    "folder": "files",
    "*.md": "files",
    "rows.jsonl": "files",
    "a.zip": "archive",
    "a.tar.gz": "archive",
    "chats.jsonl": "chats",
    "hf:acme/things@v1": "hub",
    "https://example.org/docs/": "web",
}


@pytest.mark.parametrize(("place", "name"), PLACES.items())
def test_a_place_has_one_source(root: Path, place: str, name: str) -> None:
    claims = [member for member in SOURCES if member != REST and collect.source(member).matches(place, root)]
    assert claims == ([] if name == REST else [name])
    assert origin_of(place, root=root).source == name


@pytest.mark.parametrize("name", SOURCES)
def test_its_settings_are_frozen_have_defaults_and_refuse_what_they_do_not_know(name: str) -> None:
    member = collect.source(name)
    assert member.SUMMARY and "\n" not in member.SUMMARY and name in PLACES.values()
    config = member.Config.model_validate({"place": "x"})
    with pytest.raises(ValidationError):
        config.place = "y"  # type: ignore[attr-defined]
    with pytest.raises(ValidationError):
        member.Config.model_validate({"place": "x", "plaice": 1})


def test_an_option_that_a_source_does_not_know_is_the_users_mistake(root: Path) -> None:
    with pytest.raises(RecipeError, match="max_pages"):
        origin_of("a.md", root=root, max_pages=3)
