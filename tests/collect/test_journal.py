"""Lines by their key, also after a kill in the middle of one."""

from __future__ import annotations

from pathlib import Path

from sartor.collect.journal import Index, Journal


def test_what_was_put_is_found_again_and_torn_lines_are_not(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.jsonl"
    journal = Journal(path)
    journal.put("a", {"n": 1})
    journal.put("ü", {"n": 2})
    assert journal.get("ü") == {"key": "ü", "n": 2} and journal.get("b") is None
    with path.open("a") as file:
        file.write('{"key": "torn", "n"')
    again = Journal(path)
    assert len(again) == 2 and again.get("torn") is None
    again.put("torn", {"n": 3})
    again.put("a", {"n": 4})
    for found in (again, Journal(path)):
        assert (found.get("a"), found.get("torn")) == ({"key": "a", "n": 4}, {"key": "torn", "n": 3})


def test_no_file_is_an_empty_index(tmp_path: Path) -> None:
    assert len(Index()) == len(Index(tmp_path / "none")) == 0 and Index().get("a") is None
