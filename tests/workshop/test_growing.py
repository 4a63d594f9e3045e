"""Augmentation as a step: it goes on with its rounds, and a judge that is the asker is opened once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sartor import durable
from sartor.augment.work import Config, reopen
from sartor.data.folder import open_folder
from sartor.errors import RecipeError, Refused
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
    with pytest.raises(Refused, match="wait for a decision") as refused:
        augment.run(job(tmp_path), config(accept=False))
    assert not (tmp_path / "out").exists()
    (rounds,) = tmp_path.glob("augment-*")
    assert f"sartor data review {rounds}" in refused.value.hint


def test_rounds_lie_beside_what_a_person_asked_for(tmp_path: Path, askers: list[FakeAsker]) -> None:
    work = growing.grown(job(tmp_path), config(), growing.rounds_beside(tmp_path / "out"))
    assert work.folder == tmp_path / "out.rounds"
    assert len(work.rounds()) >= 1


@pytest.mark.parametrize("with_seeds", [True, False])
def test_a_row_that_is_no_seed_is_in_the_ledger(tmp_path: Path, askers: list[FakeAsker], with_seeds: bool) -> None:
    rows = [f'{{"prompt": "Where is shelf {number}?", "completion": "In hall {number}."}}' for number in range(120)]
    durable.atomic_write(tmp_path / "seeds.jsonl", "\n".join([*rows, "{broken", ""]))
    for _ in range(2):  # the second time nothing is asked, and the same is told
        augment.run(Job(tmp_path / "out", tmp_path, tmp_path / "seeds.jsonl"), config(with_seeds=with_seeds))
        ledger = list(open_folder(tmp_path / "out", "out").ledger())
        broken = [(entry.action, entry.file, entry.line) for entry in ledger if entry.reason == "syntax"]
        assert broken == [("dropped", "seeds.jsonl", 121)]
    (rounds,) = tmp_path.glob("augment-*")
    assert [entry.line for entry in reopen(rounds, "rounds").entries] == [121]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("self_instrukt", "unknown way to augment"),
        ({"name": "back_translation", "langage": "Finnish"}, r"`augment\.recipe\.langage`"),
        ({"name": "back_translation", "language": 5}, r"`augment\.recipe\.language`"),
    ],
)
def test_a_wrong_way_to_augment_is_refused_before_any_step_runs(tmp_path: Path, recipe: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        augment.inputs(config(recipe=recipe), tmp_path)
