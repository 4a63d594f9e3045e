"""Words of a list that the user brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor.errors import DataError

from .rows import answer, outcomes, reasons, talk


@pytest.fixture
def words(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("# a neutral example\nturnip\nboiled sprout\nrutabag*\n", encoding="utf-8")
    return str(path)


def test_without_a_list_nothing_is_looked_for() -> None:
    assert reasons("toxicity", talk("turnip")) == []


def test_words_and_phrases_are_found_whole(words: str) -> None:
    assert reasons("toxicity", talk("You Turnip!"), words=words) == ["listed_word"]
    assert reasons("toxicity", talk("a boiled sprout, rutabagas"), words=words) == ["listed_word"]
    assert reasons("toxicity", talk("turnips, sprout"), words=words) == []


def test_masked_dropped_and_never_quoted(words: str) -> None:
    assert answer("toxicity", talk("you turnip"), words=words, action="mask") == "you ***"
    (outcome,) = outcomes("toxicity", [talk("you turnip")], words=words, action="drop")
    assert outcome.example is None
    assert "turnip" not in outcome.entries[0].detail


def test_a_list_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    for name in ("no.txt", "empty.txt", "binary.txt"):
        with pytest.raises(DataError, match="list"):
            outcomes("toxicity", [talk("x")], words=str(tmp_path / name))
