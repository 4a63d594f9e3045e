"""`data.make`: steps in a row, each made once, found by what decides them, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sartor import durable, workshop
from sartor.data.folder import making, open_folder
from sartor.errors import RecipeError, Refused
from sartor.events import Entered
from sartor.recipe import Recipe
from sartor.store import open_run
from sartor.types import Document

DEDUPLICATE = {"name": "clean", "cleaners": ["exact_duplicates"]}
MASK = {"name": "clean", "cleaners": [{"name": "pii", "action": "mask"}]}


def recipe(*steps: Any, train: str | None = "rows.jsonl") -> Recipe:
    return Recipe.model_validate({"model": "m", "data": {"train": train, "make": steps}, "task": "exact"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lines = [json.dumps({"prompt": f"question {number % 3}", "completion": "answer"}) + "\n" for number in range(5)]
    durable.atomic_write(tmp_path / "rows.jsonl", "".join(lines))
    return tmp_path


def made(asked: Recipe, root: Path) -> list[str]:
    """The steps that had to run."""
    return [event.stage for event in workshop.made(workshop.planned(asked, root)) if isinstance(event, Entered)]


def test_each_step_takes_what_the_one_before_it_made(root: Path) -> None:
    asked = recipe(DEDUPLICATE, MASK)
    assert made(asked, root) == ["clean", "clean"]
    first, second = workshop.planned(asked, root)
    assert second.job.source == first.job.to
    folder = open_folder(second.job.to, "second")
    assert [example.id for example in folder.examples()] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    assert workshop.resolved(asked, root).data.train == str(second.job.to)


def test_what_is_made_is_not_made_again(root: Path) -> None:
    assert made(recipe(DEDUPLICATE), root) == ["clean"]
    assert made(recipe(DEDUPLICATE), root) == []
    assert made(recipe(DEDUPLICATE, MASK), root) == ["clean"]


def test_other_rows_and_other_settings_are_made_anew(root: Path) -> None:
    made(recipe(DEDUPLICATE), root)
    assert made(recipe({**DEDUPLICATE, "only_train": True}), root) == ["clean"]
    durable.append(root / "rows.jsonl", '{"prompt": "one more", "completion": "answer"}')
    assert made(recipe(DEDUPLICATE), root) == ["clean"]


def test_a_damaged_folder_is_made_again(root: Path) -> None:
    made(recipe(DEDUPLICATE), root)
    (only,) = workshop.planned(recipe(DEDUPLICATE), root)
    (only.job.to / "examples.jsonl").write_text("", encoding="utf-8")
    assert made(recipe(DEDUPLICATE), root) == ["clean"]


def test_a_step_that_leaves_nothing_is_no_success_and_is_made_again(root: Path) -> None:
    lines = "".join(f'{{"prompt": "q{n}", "completion": "As an AI, I am not able to say."}}\n' for n in range(3))
    durable.atomic_write(root / "rows.jsonl", lines)
    asked = recipe({"name": "clean", "cleaners": ["refusals"]}, MASK)
    for _ in range(2):
        with pytest.raises(Refused, match="nothing is left") as caught:
            made(asked, root)
        assert "sartor data inspect" in caught.value.hint
    assert len(list(open_folder(workshop.planned(asked, root)[0].job.to, "first").ledger())) == 3


def test_once_it_shall_stop_nothing_more_is_made(root: Path) -> None:
    events = list(workshop.made(workshop.planned(recipe(DEDUPLICATE, MASK), root), lambda: True))
    assert [event.stage for event in events if isinstance(event, Entered)] == ["clean"]


def test_documents_are_no_examples(root: Path) -> None:
    folder = root / "documents"
    with making(folder) as written:
        written.keep(Document(place="a.md", text="a", digest="0" * 64, time="2026-01-01T00:00:00Z"))
        written.finish("")
    with pytest.raises(RecipeError, match="clean needs examples, and documents holds documents"):
        made(recipe(DEDUPLICATE, train="documents"), root)


def test_without_steps_the_recipe_stays_as_it_is(root: Path) -> None:
    asked = recipe()
    assert workshop.resolved(asked, root) is asked


def test_a_run_is_named_after_its_data_and_knows_its_steps(root: Path) -> None:
    run = open_run(root / "sartor.yaml", recipe(DEDUPLICATE))
    assert run.id.startswith("rows-")
    assert [step.name for step in run.recipe.data.make] == ["clean"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (recipe({"name": "polish"}), "unknown"),
        (recipe({"name": "clean"}), r"`data\.make\.clean\.cleaners` is missing"),
        (recipe({"name": "clean", "cleaner": []}), r"`data\.make\.clean\.cleaner"),
        (recipe(DEDUPLICATE, train=None), "clean needs examples, and nothing stands before it"),
    ],
)
def test_steps_that_do_not_fit_are_refused(root: Path, asked: Recipe, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        workshop.planned(asked, root)


def test_a_recipe_needs_examples_or_steps() -> None:
    with pytest.raises(ValueError, match="there are no examples"):
        Recipe.model_validate({"model": "m", "data": {}, "task": "exact"})
