"""The step `clean`: any rows in, a data folder out, and cleaners that choose stay away from what may be held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sartor import durable
from sartor.data.folder import CARD, DataFolder, open_folder
from sartor.errors import DataError, RecipeError
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


def test_held_out_rows_that_cannot_be_read_are_not_passed_over(tmp_path: Path) -> None:
    durable.atomic_write(tmp_path / "test.jsonl", row("Which ship?", "None") + "\n{broken\n")
    with pytest.raises(DataError, match="1 of 2 rows cannot be read"):
        cleaned(tmp_path, ROWS, cleaners=["contamination"], only_train=True, held_out="test.jsonl")


@pytest.mark.parametrize("key", ["held_out", "benchmarks"])
def test_what_is_held_out_decides_as_a_file_and_as_a_folder(tmp_path: Path, key: str) -> None:
    settings = {"cleaners": ["contamination"], "only_train": True, "held_out": "tests"}
    if key == "benchmarks":
        settings = {"cleaners": [{"name": "contamination", "benchmarks": ["tests"]}], "only_train": True}
    config = validated(clean.Config, settings, "clean")
    found = [clean.inputs(config, tmp_path)]
    durable.atomic_write(tmp_path / "tests", row("Which ship?", "None"))
    found.append(clean.inputs(config, tmp_path))
    (tmp_path / "tests").unlink()
    (tmp_path / "tests").mkdir()
    assert clean.inputs(config, tmp_path) == found[0], "a folder that is no data folder has no digest"
    (tmp_path / "tests").rmdir()
    for rows in (ROWS, ROWS[:1]):
        made = cleaned(tmp_path / "made", rows, cleaners=["exact_duplicates"])
        durable.remove_dir(tmp_path / "tests")
        made.path.rename(tmp_path / "tests")
        found.append(clean.inputs(config, tmp_path))
    assert len({str(digests) for digests in found}) == 4


@pytest.mark.parametrize(
    ("cleaner", "words"),
    [
        ({"name": "contamination", "benchmarks": 5}, r"`cleaners\.contamination\.benchmarks`"),
        ({"name": "contamination", "benchmarks": [{"a": 1}]}, r"`cleaners\.contamination\.benchmarks\.0`"),
        ({"name": "pii", "acton": "mask"}, r"`cleaners\.pii\.acton`"),
        ("pie", "unknown cleaner 'pie'"),
        ("outliers", "looks at more than a row"),
    ],
)
def test_wrong_cleaners_are_refused_before_any_step_runs(tmp_path: Path, cleaner: object, words: str) -> None:
    only_train = "contamination" in str(cleaner)
    config = validated(clean.Config, {"cleaners": [cleaner], "only_train": only_train}, "clean")
    with pytest.raises(RecipeError, match=words):
        clean.inputs(config, tmp_path)
