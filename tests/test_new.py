"""`sartor new`: what it proposes is a recipe that loads, with the metric that fits, and says why."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor import names
from sartor.data.read import read
from sartor.errors import DataError, ModelError
from sartor.formats import named
from sartor.new import DEFAULT_MODEL, propose, propose_metric
from sartor.recipe import Recipe, load
from sartor.types import Source, Text

from .engines import row, write_rows
from .plans import chat

FORMATS = names.known("formats")


def proposed(folder: Path, file: Path, **settings: Any) -> tuple[Recipe, str]:
    """The recipe as it is read back, and its text."""
    text = propose(file, relative_to=folder, **settings)
    (folder / "sartor.yaml").write_text(text, encoding="utf-8")
    return load(folder / "sartor.yaml"), text


@pytest.mark.parametrize("name", FORMATS)
def test_the_recipe_of_every_format_loads(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [named(name).SAMPLE] * 3)
    recipe, text = proposed(tmp_path, file)
    assert (recipe.model.name, recipe.data.train) == (DEFAULT_MODEL, "rows.jsonl")
    assert recipe.task.metric.name in names.known("metrics")
    assert f"3 rows, read as the format `{name}`." in text


def test_prose_loads_too(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("It rains.\n\nIt pours.\n")
    recipe, text = proposed(tmp_path, tmp_path / "book.txt")
    assert recipe.task.metric.name == "perplexity"
    assert "2 rows, read as the format `text`" in text


def test_every_choice_is_explained(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [row(f"q {number}", f"a {number}") for number in range(30)])
    _, text = proposed(tmp_path, file)
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if ": " in line and not line.lstrip().startswith("#"):
            assert lines[place - 1].lstrip().startswith("# "), f"{line!r} has no comment before it"
    assert "`sartor explain KEY`" in text
    assert "`sartor plan`" in text


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (DEFAULT_MODEL, "comes with a Python package"),
        ("Qwen3-4B", "GPU from 24 GB"),
        ("./my model: the # 1", "`sartor models` lists"),
        ("own/no", "`sartor models` lists"),
    ],
)
def test_the_model_can_be_given(tmp_path: Path, model: str, words: str) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [row("q", "a")])
    recipe, text = proposed(tmp_path, file, model=model)
    assert recipe.model.name == model
    (comment,) = (before for before, line in pairwise(text.splitlines()) if line.startswith("model:"))
    assert words in comment
    assert ("Python package" in comment) == (model == DEFAULT_MODEL), "only what is true of this model"


@pytest.mark.parametrize(("model", "hint"), [("smollm2-135m", "did you mean 'smollm2-135m-instruct'"), ("", "known: ")])
def test_a_model_that_there_is_not_is_refused(tmp_path: Path, model: str, hint: str) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [row("q", "a")])
    with pytest.raises(ModelError, match="unknown model") as caught:
        propose(file, relative_to=tmp_path, model=model)
    assert caught.value.hint.startswith(hint)


def test_unreadable_rows_are_counted(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*[row(f"q {number}", "a") for number in range(299)], "{"])
    assert "300 rows, read as the format `chat` (1 of them unreadable: `sartor check` names them)" in (
        propose(file, relative_to=tmp_path)
    )


def test_a_file_that_is_mostly_unreadable_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [row("q", "a"), "{", "{"])
    with pytest.raises(DataError, match="2 of 3 rows cannot be read"):
        propose(file, relative_to=tmp_path)
    with pytest.raises(DataError, match="there is no file"):
        propose(tmp_path / "row.jsonl", relative_to=tmp_path)


# ---- the metric ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "metric"),
    [
        (["spam", "ham"] * 20, "choice"),
        ([f"call({number})" for number in range(40)], "exact"),
        ([f"{number} " + "a long answer in many words " * 20 for number in range(40)], "f1"),
        (["the same few words, and again"] * 40, "f1"),
    ],
)
def test_the_metric_fits_the_answers(targets: list[str], metric: str) -> None:
    examples = [chat(f"q {line}", target, line=line) for line, target in enumerate(targets, start=1)]
    found, why = propose_metric(examples)
    assert found == metric
    assert f"`{metric}`" in why


def test_running_text_is_scored_by_likelihood() -> None:
    assert propose_metric([Text(source=Source(file="t", line=1), text="It rains.")])[0] == "perplexity"


def test_labels_are_named(tmp_path: Path) -> None:
    rows = [row(f"q {number}", ["billing", "delivery", "other"][number % 3]) for number in range(30)]
    recipe, text = proposed(tmp_path, write_rows(tmp_path / "rows.jsonl", rows))
    assert recipe.task.metric.name == "choice"
    assert "one of 3 labels (billing, delivery, other)" in text


HOSTILE = ["a\rmodel: evil", "b\u2028c", "tab\there", "bell\x07", "x: {y", "# no", "\x85next", "📎 ok", "'", '"']


@settings(deadline=None)
@given(
    labels=st.lists(
        st.sampled_from(HOSTILE)
        | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12),
        min_size=2,
        max_size=4,
    )
)
def test_labels_never_become_part_of_the_recipe(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    folder = tmp_path_factory.mktemp("labels")
    rows = [row(f"q {number}", labels[number % len(labels)] + "!") for number in range(30)]
    recipe, _ = proposed(folder, write_rows(folder / "rows.jsonl", rows))
    assert recipe.model.name == DEFAULT_MODEL
    assert recipe.data.train == "rows.jsonl"


# ---- the path --------------------------------------------------------------------------------------------------------

NAMES = ["a b.jsonl", "a: b.jsonl", "#a.jsonl", "1e5", "no", "null", "2024-01-01", "ünï.jsonl", "- a", "[a].jsonl"]
NAMES += ['say "hi".jsonl', "it's.jsonl", "back\\slash.jsonl", "{a}.jsonl", "a #b.jsonl", "%a", "&a", "*a", "!a", "@a"]
NAMES += [
    "true",
    "~",
    "1.5",
    "0x1F",
    "a:",
    "?",
    "📎.jsonl",
    " lead.jsonl",
    "trail ",
    "a,b.jsonl",
    "|",
    ">",
    "line\nbreak",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_comes_back(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / name, [row("q", "a")])
    recipe, _ = proposed(tmp_path, file)
    assert recipe.data.train == name


def test_a_plain_name_stays_plain(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "my_tickets-2.v3.jsonl", [row("q", "a")])
    assert "train: my_tickets-2.v3.jsonl\n" in proposed(tmp_path, file)[1]


def test_a_file_below_is_relative_and_one_elsewhere_absolute(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    below = write_rows(home / "data" / "in.jsonl", [row("q", "a")])
    beside = write_rows(tmp_path / "out.jsonl", [row("q", "a")])
    assert proposed(home, below)[0].data.train == "data/in.jsonl"
    assert proposed(home, beside)[0].data.train == str(beside.resolve())


def test_what_is_proposed_reads_the_file_it_was_made_from(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [json.dumps(row("q", "a"))])
    recipe, _ = proposed(tmp_path, file)
    found = read(tmp_path / recipe.data.train, format=recipe.data.format, fields=recipe.data.fields, label="rows")
    assert found.rows == 1


def test_an_encoder_gets_labels_or_pairs(tmp_path: Path) -> None:
    labelled = [{"prompt": f"text {number}", "completion": "ab"[number % 2]} for number in range(40)]
    paired = [{"prompt": f"question {number}", "completion": f"the answer to {number}"} for number in range(40)]
    for name, rows, wanted in (("a", labelled, ("choice", "sft")), ("b", paired, ("retrieval", "contrastive"))):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(propose(file, relative_to=tmp_path, model="all-minilm-l6-v2"))
        found = load(recipe)
        assert (found.task.metric.name, found.tune.objective.name) == wanted
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "contrastive" in propose(tmp_path / "b.jsonl", relative_to=tmp_path.parent, model=str(tmp_path))
