"""The generated half of the documentation is what the program would write now."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from sartor.errors import UserError
from sartor.names import known
from sartor.recipe import fields
from sartor.schemas import schema_of

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_reference.py"


@pytest.fixture(scope="module")
def make_reference() -> Any:
    spec = importlib.util.spec_from_file_location("make_reference", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_reference"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(make_reference: Any) -> dict[str, str]:
    made: dict[str, str] = make_reference.pages()
    return made


def test_no_page_is_stale(make_reference: Any, pages: dict[str, str]) -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in make_reference.FOLDER.glob("*.md")}
    assert written == pages, "the program has changed: `make docs` writes the pages anew"


def test_all_that_is_known_is_told(pages: dict[str, str]) -> None:
    for kind in ("formats", "metrics", "arms", "objectives", "adapters"):
        for name in known(kind):
            assert f"`{name}`" in pages["extensions.md"], f"{kind}/{name}.py is missing"
    for path, what, *_ in fields():
        assert f"### `{path}`\n\n{what}" in pages["recipe.md"]
    for verb in ("new", "check", "run", "serve"):
        assert f"## sartor {verb}\n" in pages["cli.md"]


def test_every_schema_is_told(make_reference: Any) -> None:
    with pytest.raises(UserError) as caught:
        schema_of("?")
    _, _, names = caught.value.hint.partition(": ")
    assert set(make_reference.SCHEMAS) == set(names.split(", "))


def test_tables_keep_their_columns(pages: dict[str, str]) -> None:
    """A bar in a text must not open a column of its own."""
    for name, text in pages.items():
        width = 0
        for line in text.splitlines():
            bars = line.replace("\\|", "").count("|") if line.startswith("|") else 0
            assert bars == width or not (bars and width), f"{name}: {line}"
            width = bars


def test_checking_names_the_stale_page_and_writes_nothing(
    make_reference: Any, pages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(make_reference, "FOLDER", tmp_path)
    for name, text in pages.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert make_reference.main(["--check"]) == 0
    (tmp_path / "cli.md").write_text("old", encoding="utf-8")
    assert make_reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "stale docs/reference/cli.md\n"
    assert (tmp_path / "cli.md").read_text(encoding="utf-8") == "old"
    assert make_reference.main([]) == 0
    assert (tmp_path / "cli.md").read_text(encoding="utf-8") == pages["cli.md"]
