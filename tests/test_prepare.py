"""Preparation: every row of every file is kept or accounted for, and nothing is held out that was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.chat import Renderer
from sartor.data.ledger import UNREADABLE
from sartor.data.prepare import Prepared, examples_of, prepare, tokenise, write
from sartor.errors import DataError
from sartor.recipe import Recipe
from sartor.store import Run
from sartor.types import LedgerEntry, Message

from .conversations import tiny
from .engines import renderer_of, row, write_rows
from .plans import chat

CONTEXT = 512
#: A template that takes no conversation in which somebody says "refuse me".
PICKY = (
    "{% for m in messages %}{% if 'refuse me' in m.content %}{{ raise_exception('not this one') }}{% endif %}"
    "<s>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(tiny(PICKY))


def rows(count: int, *, prefix: str = "question") -> list[Any]:
    return [row(f"{prefix} {number}", f"answer {number}") for number in range(count)]


def recipe(**data: Any) -> Recipe:
    return Recipe.model_validate({"model": "m", "data": {"train": "train.jsonl", **data}, "task": "exact"})


def prepared(folder: Path, renderer: Renderer, *, context: int = CONTEXT, **data: Any) -> Prepared:
    return prepare(recipe(**data), folder, renderer, context=context)


def reasons(found: Prepared, file: str) -> list[tuple[int, str]]:
    """The dropped rows of a file with why."""
    return [(entry.line, entry.reason) for entry in found.ledger.entries if entry.file == file]


# ---- accounting ------------------------------------------------------------------------------------------------------


def test_every_row_of_three_files_is_kept_or_dropped_with_its_reason(tmp_path: Path, renderer: Renderer) -> None:
    train = [*rows(40), "{broken", row("refuse me", "no"), row("x", "far " * 60), *rows(3)]
    dev = [*rows(6, prefix="dev"), {"messages": 3}, *rows(2, prefix="dev")]
    test = [*rows(8, prefix="test"), row("test", "refuse me"), row("test 3", "answer 3")]
    for name, lines in (("train", train), ("dev", dev), ("test", test)):
        write_rows(tmp_path / f"{name}.jsonl", lines)
    brought = {"dev": "dev.jsonl", "test": "test.jsonl", "max_bad_rows": 0.5, "max_length": 100, "too_long": "drop"}
    found = prepared(tmp_path, renderer, **brought)
    assert reasons(found, "train.jsonl") == [(41, "syntax"), (42, "template"), (43, "over_max_length")]
    assert reasons(found, "dev.jsonl") == [(7, "field"), (8, "duplicate"), (9, "duplicate")]
    assert reasons(found, "test.jsonl") == [(9, "template"), (10, "duplicate")]
    assert (len(found.train), len(found.dev), len(found.test)) == (43, 6, 8)
    assert found.ledger.rows_in == len(train) + len(dev) + len(test)
    assert found.ledger.kept == 43 + 6 + 8
    assert found.ledger.rows_in == found.ledger.kept + found.ledger.dropped
    assert {key: found.ledger.counts()[key] for key in ("template", "duplicate")} == {"template": 2, "duplicate": 3}
    assert (found.format, found.too_long, found.leaks) == ("chat", (), ())


ROWS = st.sampled_from(
    [row(f"q{number % 7}", f"a{number}") for number in range(20)]
    + ["{", "[]", {"messages": []}, row("refuse me", "a"), row("long", "far " * 60)]
)


@settings(deadline=None, max_examples=40)
@given(extra=st.lists(ROWS, max_size=12), test=st.none() | st.lists(ROWS, max_size=8))
def test_no_row_is_ever_lost(
    tmp_path_factory: pytest.TempPathFactory, renderer: Renderer, extra: list[Any], test: list[Any] | None
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    files = {"train": rows(20) + extra} | ({"test": [row("t", "t"), *test]} if test is not None else {})
    for name, lines in files.items():
        write_rows(folder / f"{name}.jsonl", lines)
    brought = {"test": "test.jsonl"} if test is not None else {}
    found = prepared(folder, renderer, max_bad_rows=1.0, max_length=100, too_long="drop", **brought)
    told = {(entry.file, entry.line) for entry in found.ledger.entries if entry.action == "dropped"}
    kept = {(item.example.source.file, item.example.source.line) for item in found.everything}
    assert not told & kept
    every = {(f"{name}.jsonl", line) for name, lines in files.items() for line in range(1, len(lines) + 1)}
    assert told | kept == every
    assert found.ledger.rows_in == len(every)
    train = {item.example.prompt_digest for item in found.train}
    held_out = [item.example for item in found.test + found.dev]
    assert bool(found.leaks) == any(item.prompt_digest in train for item in held_out)
    assert len({item.example.digest for item in found.test}) == len(found.test), "an item counts once"


def test_what_is_changed_is_told_and_kept(tmp_path: Path, renderer: Renderer) -> None:
    trailing = row("last", "word")
    trailing["messages"].append({"role": "user", "content": "thanks"})
    write_rows(tmp_path / "train.jsonl", [*rows(20), trailing])
    found = prepared(tmp_path, renderer)
    assert found.ledger.counts("changed") == {"cut_after_answer": 1}
    assert (found.ledger.rows_in, found.ledger.dropped) == (21, 0)


# ---- rows that the model cannot take ---------------------------------------------------------------------------------


def test_a_row_that_the_template_refuses_is_named_and_dropped(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", [*rows(20), row("refuse me", "a")])
    found = prepared(tmp_path, renderer)
    (entry,) = found.ledger.entries
    assert (entry.action, entry.file, entry.line, entry.reason) == ("dropped", "train.jsonl", 21, "template")
    assert "not this one" in entry.detail
    assert entry.reason not in UNREADABLE


def test_a_model_without_tools_refuses_rows_with_tools(tmp_path: Path, smollm2_folder: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    write_rows(tmp_path / "train.jsonl", [*rows(20), {**row("call", "done"), "tools": [tool]}])
    found = prepared(tmp_path, renderer_of(smollm2_folder))
    (entry,) = found.ledger.entries
    assert entry.detail == "the chat template of this model leaves out tools"


def test_too_long_rows_stay_and_are_reported_unless_dropped(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", [*rows(20), row("long", "far " * 60), row("longer", "far " * 90)])
    kept = prepared(tmp_path, renderer, max_length=100)
    assert [item.example.id for item in kept.too_long] == ["train.jsonl:21", "train.jsonl:22"]
    assert (kept.ledger.kept, kept.ledger.dropped) == (22, 0)
    dropped = prepared(tmp_path, renderer, max_length=100, too_long="drop")
    assert dropped.too_long == ()
    assert reasons(dropped, "train.jsonl") == [(21, "over_max_length"), (22, "over_max_length")]
    length = tokenise(kept.too_long[0].example, renderer).length
    assert dropped.ledger.entries[0].detail == f"{length} tokens, the longest allowed is 100"


def test_the_longest_length_is_met_exactly_and_never_beyond_the_context(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", rows(20))
    longest = max(item.length for item in prepared(tmp_path, renderer).train)
    assert prepared(tmp_path, renderer, max_length=longest).too_long == ()
    assert prepared(tmp_path, renderer, max_length=longest - 1).too_long
    assert prepared(tmp_path, renderer, max_length=100_000, context=longest).too_long == ()
    assert prepared(tmp_path, renderer, max_length=100_000, context=longest - 1).too_long


@pytest.mark.parametrize("fault", ["template", "over_max_length", "syntax"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_file_of_which_nothing_is_left_is_refused(tmp_path: Path, renderer: Renderer, part: str, fault: str) -> None:
    bad = {"template": row("refuse me", "a"), "over_max_length": row("x", "far " * 60), "syntax": "{"}[fault]
    for name in ("train", "dev", "test"):
        write_rows(tmp_path / f"{name}.jsonl", [bad] * 7 if name == part else rows(20, prefix=name))
    brought = {"dev": "dev.jsonl", "test": "test.jsonl", "max_bad_rows": 1.0, "max_length": 100, "too_long": "drop"}
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, renderer, **brought)
    assert f"{part}.jsonl" in str(caught.value)
    assert caught.value.hint


def test_an_example_has_its_tokens_shifted(renderer: Renderer) -> None:
    item = tokenise(chat("Why?", "So."), renderer)
    (rendered,) = renderer.render(item.example)
    (part,) = item.segments
    assert part.tokens == rendered.ids[:-1]
    assert part.targets == rendered.ids[1:]
    assert (item.length, item.num_tokens) == (len(rendered.ids), len(rendered.ids) - 1)
    assert item.num_supervised == sum(weight != 0 for weight in rendered.weights)
    assert (item.exact, item.stop_trained) == (True, True)


def test_an_example_without_a_trained_turn_has_no_segments(renderer: Renderer) -> None:
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b", weight=0))
    item = tokenise(chat("a", "b").model_copy(update={"messages": turns}), renderer)
    assert (item.segments, item.num_tokens, item.num_supervised) == ((), 0, 0)


# ---- what is held out ------------------------------------------------------------------------------------------------


def test_a_test_file_of_ones_own_is_taken_as_it_is_and_its_leaks_are_named(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", rows(40))
    leaked = [row("question 2", "another answer"), *rows(3, prefix="new"), row("question 39", "answer 39")]
    write_rows(tmp_path / "mine.jsonl", leaked)
    found = prepared(tmp_path, renderer, test="mine.jsonl")
    assert [item.example.id for item in found.test] == [f"mine.jsonl:{line}" for line in range(1, 6)]
    train = {item.example.id for item in found.train}
    assert {held_out for held_out, _ in found.leaks} <= {"mine.jsonl:1", "mine.jsonl:5"}
    expected = {("mine.jsonl:1", "train.jsonl:3"), ("mine.jsonl:5", "train.jsonl:40")}
    assert set(found.leaks) == {pair for pair in expected if pair[1] in train}
    assert found.leaks
    assert len(found.dev) > 0, "dev is still held out of the training file"
    assert len(found.train) + len(found.dev) == 40


def test_the_training_file_as_a_test_file_leaks_everywhere(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", rows(40))
    found = prepared(tmp_path, renderer, test="train.jsonl")
    assert len(found.leaks) == len(found.train)


def test_without_files_of_ones_own_nothing_leaks(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", [*rows(30), *rows(30), row("question 1", "another")])
    found = prepared(tmp_path, renderer)
    assert found.leaks == ()
    told = [entry for entry in found.ledger.entries if entry.reason == "duplicate"]
    assert told
    assert all("held out for evaluation" in entry.detail for entry in told)
    assert len({item.example.digest for item in found.test + found.dev}) == len(found.test) + len(found.dev)
    assert len({item.example.digest for item in found.train}) < len(found.train), "duplicates in training stay"


def test_too_few_rows_for_a_split_are_refused(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", rows(5))
    with pytest.raises(DataError, match="5 examples, 1 of them different, are too few"):
        prepared(tmp_path, renderer)


def test_a_file_is_named_as_seen_from_the_recipe(tmp_path: Path, renderer: Renderer) -> None:
    (tmp_path / "data").mkdir()
    inside = write_rows(tmp_path / "data" / "a.jsonl", rows(20))
    outside = write_rows(tmp_path / "b.jsonl", rows(3, prefix="test"))
    root = tmp_path / "data"
    found = prepare(recipe(train=str(inside), test=str(outside)), root, renderer, context=CONTEXT)
    assert {item.example.source.file for item in found.train} == {"a.jsonl"}
    assert {item.example.source.file for item in found.test} == {str(outside)}


def test_a_missing_file_is_named(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", rows(20))
    with pytest.raises(DataError, match=r"there is no file tets\.jsonl"):
        prepared(tmp_path, renderer, test="tets.jsonl")


# ---- the way to disk and back ----------------------------------------------------------------------------------------


def test_parts_and_ledger_come_back_from_disk(tmp_path: Path, renderer: Renderer) -> None:
    odd = row("Ünï \u2028 </s> \ud83d\ude42", "line\nbreak")
    odd["messages"].insert(0, {"role": "system", "content": "Be brief."})
    write_rows(tmp_path / "train.jsonl", [*rows(30), odd, "{", row("a", "b", weight=0)])
    found = prepared(tmp_path, renderer, max_bad_rows=0.1)
    run = Run(tmp_path / "runs" / "r")
    write(run, found)
    for part, items in (("train", found.train), ("dev", found.dev), ("test", found.test)):
        assert examples_of(run, part) == tuple(item.example for item in items)
    lines = run.path("data/ledger.jsonl").read_text().splitlines()
    assert [LedgerEntry.model_validate(json.loads(line)) for line in lines] == list(found.ledger.entries)


def test_the_same_files_give_the_same_parts(tmp_path: Path, renderer: Renderer) -> None:
    write_rows(tmp_path / "train.jsonl", rows(60))
    assert prepared(tmp_path, renderer) == prepared(tmp_path, renderer)
    other = prepare(
        recipe().model_copy(update={"tune": recipe().tune.model_copy(update={"seed": 1})}),
        tmp_path,
        renderer,
        context=CONTEXT,
    )
    assert {item.example.id for item in other.test} != {item.example.id for item in prepared(tmp_path, renderer).test}
