"""Augmentation as a step: it goes on with its rounds, and a judge that is the asker is opened once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sartor import durable
from sartor.augment.work import Config
from sartor.errors import UserError
from sartor.workshop import Job, augment, growing

from ..augment.makers import FakeAsker, seeds  # noqa: TID252 - the tests are no package that could be imported by name


@pytest.fixture
def askers(monkeypatch: pytest.MonkeyPatch) -> list[FakeAsker]:
    """Those that were opened, in their order."""
    found: list[FakeAsker] = []

    def opened(who: Any) -> FakeAsker:
        found.append(FakeAsker())
        return found[-1]

    monkeypatch.setattr(growing, "open_asker", opened)
    return found


def job(root: Path, name: str = "out") -> Job:
    rows = "".join(f'{{"prompt": "{seed.prompt[0].content}", "completion": "{seed.target}"}}\n' for seed in seeds(6))
    durable.atomic_write(root / "seeds.jsonl", rows)
    return Job(root / name, root, root / "seeds.jsonl")


def config(**settings: Any) -> Config:
    fixed = {"size": 4, "rounds": 3, "accept": True, "checks": {"language": False}}
    return Config.model_validate({**fixed, "wanted": 4, **settings})


def test_a_step_that_asks_for_more_goes_on_with_its_rounds(tmp_path: Path, askers: list[FakeAsker]) -> None:
    augment.run(job(tmp_path), config())
    before = {question.key for question in askers[0].asked}
    augment.run(job(tmp_path, "more"), config(wanted=9))
    assert before
    assert not before & {question.key for question in askers[1].asked}


def test_a_judge_that_is_the_asker_is_opened_once(tmp_path: Path, askers: list[FakeAsker]) -> None:
    augment.run(job(tmp_path), config(judge={"url": "http://localhost:1/v1", "model": "m"}))
    assert len(askers) == 2
    same = {"url": "http://localhost:1/v1", "model": "m"}
    augment.run(job(tmp_path, "more"), config(judge=same, who=same))
    assert len(askers) == 3


def test_what_waits_for_a_reviewer_is_no_result(tmp_path: Path, askers: list[FakeAsker]) -> None:
    with pytest.raises(UserError, match="wait for a decision"):
        augment.run(job(tmp_path), config(accept=False))
    assert not (tmp_path / "out").exists()


def test_rounds_lie_beside_what_a_person_asked_for(tmp_path: Path, askers: list[FakeAsker]) -> None:
    work = growing.grown(job(tmp_path), config(), growing.rounds_beside(tmp_path / "out"))
    assert work.folder == tmp_path / "out.rounds"
    assert len(work.rounds()) >= 1
