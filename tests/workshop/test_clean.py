"""The step `clean`: any rows in, a data folder out, and cleaners that choose stay away from what may be held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sartor import durable
from sartor.data.folder import CARD, DataFolder, open_folder
from sartor.errors import RecipeError
from sartor.recipe import validated
from sartor.types import Chat
from sartor.workshop import Job, clean


def cleaned(folder: Path, rows: list[str], **settings: object) -> DataFolder:
    durable.atomic_write(folder / "rows.jsonl", "".join(f"{row}\n" for row in rows))
    config = validated(clean.Config, settings, "clean")
    clean.run(Job(folder / "out", folder, folder / "rows.jsonl"), config)
    return open_folder(folder / "out", "out")


def row(prompt: str, completion: str) -> str:
    return json.dumps({"prompt": prompt, "completion": completion})


ROWS = [row("Who?", "ada@lovelace.net"), row("Who?", "ada@lovelace.net"), "{broken", row("Where?", "Here")]


def test_every_row_goes_on_or_is_in_the_ledger(tmp_path: Path) -> None:
    folder = cleaned(tmp_path, ROWS, cleaners=["exact_duplicates", {"name": "pii", "action": "mask"}])
    kept = [example for example in folder.examples() if isinstance(example, Chat)]
    assert [(example.id, example.target) for example in kept] == [
        ("rows.jsonl:1", "[E_MAIL]"),
        ("rows.jsonl:4", "Here"),
    ]
    told = [(entry.action, entry.line, entry.reason) for entry in folder.ledger()]
    assert told == [("changed", 1, "e_mail"), ("dropped", 2, "exact_duplicate"), ("dropped", 3, "syntax")]
    assert "- rows in: 4\n- rows out: 2\n" in (folder.path / CARD).read_text("utf-8")


def test_it_goes_on_from_its_own_folders(tmp_path: Path) -> None:
    first = cleaned(tmp_path, ROWS, cleaners=["exact_duplicates"])
    config = validated(clean.Config, {"cleaners": ["pii"]}, "clean")
    clean.run(Job(tmp_path / "again", tmp_path, first.path), config)
    assert [example.id for example in open_folder(tmp_path / "again", "again").examples()] == [
        "rows.jsonl:1",
        "rows.jsonl:4",
    ]


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        folder = cleaned(tmp_path / name, ROWS, cleaners=["near_duplicates", "pii"])
        digests.add((folder.digest, durable.sha256(folder.path / "ledger.jsonl"), durable.sha256(folder.path / CARD)))
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["outliers", "label_noise", "contamination"])
def test_cleaners_that_choose_are_let_in_only_where_nothing_is_held_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} looks at more than a row") as caught:
        cleaned(tmp_path, ROWS, cleaners=[name])
    assert "only_train" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_what_is_held_out_elsewhere_is_not_met_again(tmp_path: Path) -> None:
    question = "Which harbour did the old ship with the red sail leave in the storm of last winter, and who saw it?"
    durable.atomic_write(tmp_path / "test.jsonl", row(question, "Nobody"))
    folder = cleaned(
        tmp_path,
        [row(question, "A gull"), row("Where?", "Here")],
        cleaners=["contamination"],
        only_train=True,
        held_out="test.jsonl",
    )
    assert [example.id for example in folder.examples()] == ["rows.jsonl:2"]


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`cleaners\.pii\.acton`"):
        cleaned(tmp_path, ROWS, cleaners=[{"name": "pii", "acton": "mask"}])
