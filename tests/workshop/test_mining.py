"""Failures of the base on train and dev become seeds; the test split is never asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sartor import durable
from sartor.ask import Answer, Question
from sartor.data.folder import CARD
from sartor.errors import Refused, UserError
from sartor.recipe import Recipe
from sartor.store import Run, open_run
from sartor.workshop.mining import mine

from ..augment.makers import FakeAsker, chat  # noqa: TID252 - the tests are no package that could be imported by name


@pytest.fixture
def run(tmp_path: Path) -> Run:
    durable.atomic_write(tmp_path / "rows.jsonl", json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    made = open_run(
        tmp_path / "sartor.yaml", Recipe.model_validate({"model": "m", "data": "rows.jsonl", "task": "exact"})
    )
    for part, lines in {"train": range(6), "dev": range(6, 8), "test": range(8, 12)}.items():
        rows = (chat(f"question {line}", f"answer {line}", line=line) for line in lines)
        durable.atomic_write(made.path(f"data/{part}.jsonl"), "".join(row.model_dump_json() + "\n" for row in rows))
    return made


def answering(wrong: set[int]) -> FakeAsker:
    def answer(question: Question) -> Answer:
        line = int(question.messages[-1].content.split()[-1])
        return Answer(question.key, "no idea" if line in wrong else f"answer {line}", output_tokens=2)

    return FakeAsker(answer)


def test_wrong_answers_become_seeds(run: Run, tmp_path: Path) -> None:
    asker = answering({1, 7, 9})
    folder = mine(run, asker, tmp_path / "seeds")
    assert [example.source.line for example in folder.examples()] == [1, 7]
    assert len(asker.asked) == 8, "those of the test split are not asked"
    assert "- failed: 2" in (folder.path / CARD).read_text("utf-8")


def test_a_run_that_is_not_prepared_is_named(run: Run, tmp_path: Path) -> None:
    run.path("data/train.jsonl").unlink()
    with pytest.raises(UserError, match="is not prepared yet"):
        mine(run, answering(set()), tmp_path / "seeds")


def test_without_failures_there_are_no_seeds(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="fails on none of 8"):
        mine(run, answering(set()), tmp_path / "seeds")
    assert not (tmp_path / "seeds").exists()
