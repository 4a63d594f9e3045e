"""The texts of the workloads, from a made-up package and made-up calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sources
from sartor.errors import DataError

MODULE = '''
import os

LIMIT = 3

def double(
    number: int,
) -> int:
    """Twice
    the number.

    Example: double(2) == 4
    """
    # by adding
    return number + number

def _private(x):
    """Hidden."""
    return x

def undocumented(x):
    return x

def only_words():
    """Nothing else."""

class Kept:
    def method(self):
        """Not at top level."""
        return 1
'''


def numbered(count: int, lines: int) -> str:
    """A module of documented functions, each with a body of so many lines."""
    body = "".join(f"    value_{line} = {line} * 2\n" for line in range(lines))
    return "".join(f'\n\ndef number_{n}(x):\n    """Number {n}."""\n{body}    return x\n' for n in range(count))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Two modules of functions, and tests of theirs."""
    folder = tmp_path / "package"
    (folder / "tests").mkdir(parents=True)
    for name, count in (("a", 30), ("b", 40)):
        (folder / f"{name}.py").write_text(numbered(count, 30), encoding="utf-8")
    (folder / "tests" / "test_a.py").write_text(MODULE, encoding="utf-8")
    return folder


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    path = tmp_path / "calls.jsonl"
    rows = [
        [("system", "Write the call."), ("user", f"f(x: int)\n\nUse {n}."), ("assistant", f"f(x={n})")]
        for n in range(100)
    ]
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in row]}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_function_becomes_its_documentation_its_signature_and_its_body() -> None:
    (found,) = sources.functions_of(MODULE)
    assert found.request == "Twice the number.\n\ndef double(\n    number: int,\n) -> int:"
    assert found.body == "# by adding\nreturn number + number"
    assert MODULE.splitlines()[found.start - 1] == "def double("


def test_functions_come_from_modules_that_are_no_tests_and_are_not_too_long(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    (folder / "tests").mkdir(parents=True)
    (folder / "a.py").write_text(MODULE, encoding="utf-8")
    (folder / "tests" / "test_a.py").write_text(MODULE, encoding="utf-8")
    (folder / "long.py").write_text(f'def long():\n    """Long."""\n    return {"1" * 3000!r}\n', encoding="utf-8")
    assert [len(functions) for functions in sources.small_functions(folder)] == [1, 0]


def test_a_missing_source_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as found:
        sources.read_calls(tmp_path / "calls.jsonl")
    with pytest.raises(DataError) as missing:
        sources.modules(tmp_path / "package")
    assert "demo_data.py" in found.value.hint
    assert "setup.sh" in missing.value.hint


def test_w1_takes_functions_and_calls_in_turn(package: Path, calls: Path) -> None:
    found = sources.short(package, calls)
    assert [len(turns) for turns in found] == [2, 3] * 70
    assert sources.short(package, calls) == found


def test_w2_asks_for_several_functions_one_after_the_other(package: Path, calls: Path) -> None:
    found = sources.talks(package, calls)
    least, most = sources.TALK_CHARACTERS
    for talk in found:
        assert [role for role, _ in talk] == ["user", "assistant"] * (len(talk) // 2)
        assert least <= sum(len(text) for _, text in talk) <= most
    assert len(found) > 5


def test_w3_asks_for_a_signature_of_the_text(package: Path, calls: Path) -> None:
    found = sources.lookups(package, calls)
    assert len(found) > 5
    for (_, question), (_, answer) in found:
        assert answer in question
        assert len(answer) < len(question) / 20


def test_w4_begins_every_row_alike_and_asks_nothing_that_was_shown(package: Path, calls: Path) -> None:
    found = sources.guided(package, calls)
    systems = {turns[0][1] for turns in found}
    (system,) = systems
    assert len(system) >= sources.GUIDE_CHARACTERS
    assert not any(f"\n{turns[1][1]}\n" in system for turns in found)


def test_w7_shows_the_text_before_a_function_and_no_text_twice(tmp_path: Path, calls: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    for number in range(8):
        (folder / f"m{number}.py").write_text(numbered(12, 40).replace("value", f"v{number}"), encoding="utf-8")
    found = sources.long_texts(folder, calls)
    assert len(found) > 1
    for (_, question), (_, answer) in found:
        assert len(question) > sources.LONG_CHARACTERS
        assert answer.startswith("v")
    shown = [question[:2000] for (_, question), _ in found]
    assert len(set(shown)) == len(shown)


def test_sections_are_the_whole_text() -> None:
    text = numbered(20, 10)
    assert "".join(sources.sections(text, 500)) == text
