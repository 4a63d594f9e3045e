"""Every chunk ends as examples or as a named failure; after a kill nothing that was answered is asked again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor import durable
from sartor.ask import Answer, Question
from sartor.build.documents import Config, Progress, build
from sartor.data.folder import DataFolder
from sartor.errors import RecipeError
from sartor.recipe import Named
from sartor.types import Document, Text

from ..augment.makers import FakeAsker, Script, draw  # noqa: TID252 - the tests are no package
from ..survival import finish  # noqa: TID252
from .papers import MANUAL, paper

PAPERS = [paper(MANUAL, "a/manual.md", "Manual"), paper("Too short.", "b.txt"), paper(" \n", "c.txt")]
QA = Config(builder=Named(name="qa", settings={"chunks": {"size": 200}}))
STRIDE = 1 if "SARTOR_TEST_KILLS" in os.environ else 4


def sentence_of(question: Question) -> str:
    return question.messages[-1].content.split("\n\n")[-1].split(". ")[0]


def answered(question: Question) -> Answer:
    """A pair whose answer is a sentence of the chunk."""
    said = sentence_of(question)
    text = json.dumps({"pairs": [{"question": f"Is it so: {said}?", "answer": said, "quote": said}]})
    return Answer(question.key, text, prompt_tokens=9, output_tokens=4)


def built(folder: Path, script: Script = answered, papers: list[Document] | None = None, **options: Any) -> DataFolder:
    asker, config = options.pop("asker", None) or FakeAsker(script), options.pop("config", QA)
    return build(lambda: papers or PAPERS, config, folder / "made", "made", asker=asker, **options)


def test_chunks_become_examples_or_named_failures(tmp_path: Path) -> None:
    folder = built(tmp_path)
    examples = list(folder.examples())
    assert [example.id for example in examples] == [f"build/qa/a/manual.md:{n}" for n in (1, 2, 3)]
    assert {example.source.origin for example in examples} == {"a/manual.md"}
    assert [(entry.file, entry.line, entry.reason) for entry in folder.ledger()] == [
        ("b.txt", 1, "too_short"),
        ("c.txt", 1, "empty"),
    ]
    places = [json.loads(line) for line in (folder.path / "chunks.jsonl").read_text().splitlines()]
    assert [place["lines"] for place in places] == [[1, 3], [5, 11], [13, 15]]
    assert "27 tokens asked and 12 answered" in (folder.path / "card.md").read_text()


def test_a_failure_has_its_name_and_place(tmp_path: Path) -> None:
    def script(question: Question) -> Answer:
        if "vinegar" in question.messages[-1].content:
            return Answer(question.key, failure="http_500: no luck")
        if "warranty" in question.messages[-1].content:
            return Answer(question.key, "no json here", truncated=True)
        return answered(question)

    folder = built(tmp_path, script)
    assert [(entry.line, entry.reason, entry.detail) for entry in folder.ledger()][:2] == [
        (5, "http_500", "no luck"),
        (13, "cut_off", "the answer broke off"),
    ]


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    first, again = FakeAsker(answered), FakeAsker(answered)
    digest = built(tmp_path, asker=first).digest
    assert built(tmp_path, asker=again).digest == digest
    assert (len(first.asked), len(again.asked)) == (3, 0)
    longer = [*PAPERS, paper("Another text. " * 10, "d.txt")]
    built(tmp_path, asker=again, papers=longer)
    assert len(again.asked) == 1


def test_two_builds_may_share_their_answers(tmp_path: Path) -> None:
    asker = FakeAsker(answered)
    one = built(tmp_path / "one", asker=asker, answers=tmp_path / "answers").digest
    assert built(tmp_path / "other", asker=asker, answers=tmp_path / "answers").digest == one
    assert len(asker.asked) == 3


def test_an_answer_that_broke_off_is_asked_again_with_more_room(tmp_path: Path) -> None:
    def script(question: Question) -> Answer:
        enough = asker.wishes[-1].max_tokens > 100
        return answered(question) if enough else Answer(question.key, '{"pairs": [{"quest', truncated=True)

    asker = FakeAsker(script)
    short = built(tmp_path, asker=asker, config=QA.model_copy(update={"max_tokens": 100}))
    assert [entry.reason for entry in short.ledger()][:1] == ["cut_off"]
    longer = built(tmp_path, asker=asker, config=QA.model_copy(update={"max_tokens": 200}))
    assert len(list(longer.examples())) == 3


@pytest.mark.parametrize(
    ("change", "num_asked"),
    [
        ({"max_tokens": 99}, 3),
        ({"temperature": 0.9}, 3),
        ({"seed": 3}, 3),
        ({"who": {"url": "http://localhost/v2", "model": "m"}}, 3),
        ({"who": {"url": "http://localhost/v1", "model": "n"}}, 3),
        ({"who": {"model": {"name": "m", "revision": "r"}}}, 3),
        ({"who": {"url": "http://localhost/v1", "model": "m", "concurrency": 9, "prices": {"prompt": 1}}}, 0),
    ],
)
def test_what_decides_answers_is_asked_anew_and_nothing_else_is(
    tmp_path: Path, change: dict[str, Any], num_asked: int
) -> None:
    settings = {"builder": QA.builder, "who": {"url": "http://localhost/v1", "model": "m"}}
    built(tmp_path, config=Config.model_validate(settings))
    again = FakeAsker(answered)
    built(tmp_path, asker=again, config=Config.model_validate({**settings, **change}))
    assert len(again.asked) == num_asked


def test_progress_is_that_of_these_documents_whoever_shares_the_answers(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    built(tmp_path / "one", answers=tmp_path / "answers")
    papers = [paper("Another text. " * 10, "d.txt"), paper("A third text. " * 10, "e.txt"), *PAPERS]
    down = FakeAsker(lambda question: Answer(question.key, failure="http_503: overloaded"))
    built(tmp_path / "two", asker=down, papers=papers, answers=tmp_path / "answers", progress=progress_into(told))
    assert told == [(4, 5), (5, 5)]
    told.clear()
    built(tmp_path / "two", papers=papers, answers=tmp_path / "answers", progress=progress_into(told))
    assert told == [(4, 5), (5, 5)]


def progress_into(told: list[tuple[int, int]]) -> Progress:
    return lambda done, total: told.append((done, total))


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    down = FakeAsker(lambda question: Answer(question.key, failure="http_503: overloaded"))
    assert list(built(tmp_path, asker=down).examples()) == []
    up = FakeAsker(answered)
    assert len(list(built(tmp_path, asker=up).examples())) == len(up.asked) == 3


def test_an_answer_that_got_lost_has_a_name(tmp_path: Path) -> None:
    class Forgetful(FakeAsker):
        def ask(self, questions: Any, wish: Any) -> Any:
            return list(super().ask(questions, wish))[1:]

    folder = built(tmp_path, asker=Forgetful(answered))
    assert [entry.reason for entry in folder.ledger()] == ["no_answer", "too_short", "empty"]


def test_the_order_of_answers_makes_no_difference(tmp_path: Path) -> None:
    class Backwards(FakeAsker):
        def ask(self, questions: Any, wish: Any) -> Any:
            return reversed(list(super().ask(questions, wish)))

    assert built(tmp_path / "one", asker=Backwards(answered)).digest == built(tmp_path / "other").digest


def test_the_same_text_twice_gives_its_examples_once(tmp_path: Path) -> None:
    folder = built(tmp_path, papers=[paper(MANUAL, "one.md"), paper(MANUAL, "two.md")])
    assert len(list(folder.examples())) == 3
    assert [entry.reason for entry in folder.ledger()] == ["duplicate"] * 3


def test_running_text_asks_nobody(tmp_path: Path) -> None:
    config = Config(builder=Named(name="text", settings={"chunks": {"size": 200}}))
    assert not config.asks
    folder = build(lambda: PAPERS, config, tmp_path / "made", "made")
    examples = list(folder.examples())
    assert all(isinstance(example, Text) for example in examples)
    assert [entry.reason for entry in folder.ledger()] == ["too_short", "empty"]
    assert not (tmp_path / "made.answers").exists()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="asks a model"):
        build(lambda: PAPERS, QA, tmp_path / "made", "made")
    with pytest.raises(RecipeError, match="in tokens, and no model"):
        in_tokens = Named(name="text", settings={"chunks": {"unit": "tokens"}})
        build(lambda: PAPERS, Config(builder=in_tokens), tmp_path / "made", "made")
    with pytest.raises(RecipeError, match="rows of a table"):
        table = Named(name="classify", settings={"input": "a", "label": "b"})
        build(lambda: PAPERS, Config(builder=table), tmp_path / "made", "made")
    with pytest.raises(RecipeError, match="unknown build"):
        build(lambda: PAPERS, Config(builder=Named(name="qanda")), tmp_path / "made", "made")
    with pytest.raises(RecipeError, match="overlp"):
        typo = Named(name="text", settings={"chunks": {"overlp": 3}})
        build(lambda: PAPERS, Config(builder=typo), tmp_path / "made", "made")


def test_how_it_is_asked_is_said(tmp_path: Path) -> None:
    asker, told = FakeAsker(answered), list[tuple[int, int]]()
    config = QA.model_copy(update={"max_tokens": 77, "temperature": 0.1})
    built(tmp_path, asker=asker, config=config, progress=progress_into(told))
    assert (asker.wishes[0].max_tokens, asker.wishes[0].temperature) == (77, 0.1)
    assert asker.wishes[0].schema is not None
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def whole_job(folder: Path) -> None:
    durable.clear_staging(folder)
    built(folder, asker=FakeAsker(answered, log=folder / "asked.log"))


def test_killed_before_each_file_operation_it_goes_on(fast: Path) -> None:
    wanted = built(fast / "whole").digest
    operation, killed = 1, True
    while killed:
        folder = fast / f"at-{operation}"
        folder.mkdir()
        killed = finish(lambda: whole_job(folder), {durable.FAILPOINT: f"{operation}:kill"}) != 0  # noqa: B023
        kept = [line["key"] for line in durable.read_lines(folder / "made.answers/answers.jsonl")]
        before = len((folder / "asked.log").read_text().split()) if (folder / "asked.log").exists() else 0
        assert finish(lambda: whole_job(folder)) == 0  # noqa: B023
        assert DataFolder(folder / "made").digest == wanted
        assert durable.verify(folder / "made") == ""
        assert not set((folder / "asked.log").read_text().split()[before:]) & set(kept)
        operation += STRIDE
    assert operation > 15


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.text(alphabet="ab. \n#", max_size=300), min_size=1, max_size=4),
    st.lists(st.sampled_from(["", "no", '{"pairs": []}', '{"pairs": [1, {}]}', "right"]), min_size=1, max_size=5),
)
def test_every_chunk_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], replies: list[str]
) -> None:
    def script(question: Question) -> Answer:
        reply = replies[draw(question.key, len(replies))]
        if reply == "right":
            return answered(question)
        return Answer(question.key, reply) if reply else Answer(question.key, failure="timeout: none")

    papers = [paper(text, f"{number}.txt") for number, text in enumerate(texts)]
    folder = built(tmp_path_factory.mktemp("build"), script, papers)
    named = {entry.file for entry in folder.ledger()} | {example.source.origin for example in folder.examples()}
    assert named == {each.place for each in papers}
