"""The registry: files, entry points of other packages, and the user's own code where it is allowed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from sartor import names
from sartor.errors import RecipeError

KINDS = ("objectives", "metrics", "adapters", "formats", "arms", "backends", "generate")


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_name_is_the_name(kind: str) -> None:
    known = names.known(kind)
    assert known
    assert list(known) == sorted(set(known))
    folder = Path(names.__file__).parent / kind
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(known) <= ({path.stem for path in folder.glob("*.py")} | folders) - {"__init__"}


@pytest.mark.parametrize(("kind", "opens"), [("backends", "open_backend"), ("generate", "open_engine")])
def test_every_place_to_compute_can_be_opened(kind: str, opens: str) -> None:
    for name in names.known(kind):
        assert opens in vars(names.resolve(kind, name)), name


def test_a_name_gives_its_module() -> None:
    assert names.resolve("objectives", "sft").__name__ == "sartor.objectives.sft"
    assert "load" not in names.known("metrics"), "helpers are no members"


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        ("objectives", "stf", "unknown objective 'stf'", "did you mean 'sft'? Known: contrastive, sft"),
        ("metrics", "exakt", "unknown metric 'exakt'", "did you mean 'exact'?"),
        ("arms", "zzz", "unknown arm 'zzz'", "known: few_shot"),
        ("metrics", "load", "unknown metric 'load'", "nown: "),
        ("objectives", "os:path", "unknown objective 'os:path'", "known: contrastive, sft"),
        ("adapters", "../lora", "unknown adapter '../lora'", "did you mean 'lora'"),
    ],
)
def test_an_unknown_name_answers_with_the_nearest(kind: str, name: str, message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        names.resolve(kind, name)
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_suggest() -> None:
    assert names.suggest("ful", ("full", "lora")) == "did you mean 'full'? Known: full, lora"
    assert names.suggest("x", ()) == "known: none"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package that brings an objective, and one that has the name of ours."""
    (tmp_path / "sartor_extra_objectives.py").write_text("SUMMARY = 'from another package'\n")
    info = tmp_path / "sartor_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sartor-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sartor.objectives]\nextra = sartor_extra_objectives\nsft = sartor_extra_objectives\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    names._plugins.cache_clear()
    yield
    names._plugins.cache_clear()


@pytest.mark.usefixtures("plugin")
def test_another_package_can_bring_a_member_but_not_replace_ours() -> None:
    assert {"extra", "sft"} <= set(names.known("objectives"))
    assert names.resolve("objectives", "extra").SUMMARY == "from another package"
    assert names.resolve("objectives", "sft").__name__ == "sartor.objectives.sft"
    assert "extra" not in names.known("metrics")


def test_the_users_own_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric_for_names.py").write_text("def score(example, output):\n    return 1.0\n")
    (tmp_path / "own_broken_for_names.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert names.resolve("metrics", "own_metric_for_names:score")(None, "x") == 1.0
    with pytest.raises(RecipeError, match="has no 'scor'") as caught:
        names.resolve("metrics", "own_metric_for_names:scor")
    assert "did you mean 'score'" in caught.value.hint
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        names.resolve("metrics", "own_broken_for_names:score")


@pytest.mark.parametrize("name", ["no_such_module:f", "no_such_package.inner:f", "json.no_such_part:f"])
def test_a_module_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(RecipeError, match="no module") as caught:
        names.resolve("metrics", name)
    assert "PYTHONPATH" in caught.value.hint


@pytest.mark.parametrize("name", [":f", "m:", ".m:f", "a..b:f", "a b:f", "m:f:g"])
def test_what_is_no_module_and_attribute_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="is not of the form module:attribute"):
        names.resolve("metrics", name)


def test_the_collector_rests_while_libraries_are_imported_and_is_left_as_it_was() -> None:
    with names.uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with names.uncollected():
            pass
        assert not gc.isenabled(), "whoever switched it off finds it off"
    finally:
        gc.enable()
