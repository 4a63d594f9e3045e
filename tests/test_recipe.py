"""The recipe: YAML 1.2 without its traps, errors that point, and a digest that means the same recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor import store
from sartor.errors import RecipeError
from sartor.names import known
from sartor.recipe import Named, Recipe, fields, load

SMALLEST = "model: smollm2-135m-instruct\ndata: {train: tickets.jsonl}\ntask: {metric: exact}\n"
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
YAML_LIKE = st.text(alphabet="ab:-?[]{},&*!|>'\"%@`#~=<.0_x1e+T \t\n\r\\uU\x00\x85\ufeff", max_size=60)


def read(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "sartor.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides)


def refused(folder: Path, text: str, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read(folder, text, *overrides)
    assert caught.value.hint
    return caught.value


# ---- YAML 1.2 --------------------------------------------------------------------------------------------------------


def test_the_smallest_recipe_leaves_the_rest_to_the_plan(tmp_path: Path) -> None:
    recipe = read(tmp_path, SMALLEST)
    assert recipe.model.name == "smollm2-135m-instruct"
    assert recipe.data.train == "tickets.jsonl"
    assert recipe.task.metric == Named(name="exact")
    assert recipe.tune.adapter == Named(name="lora")
    assert recipe.tune.learning_rate is recipe.tune.epochs is recipe.prove.items is recipe.task.goal is None


def test_words_stand_for_mappings(tmp_path: Path) -> None:
    assert read(tmp_path, "model: smollm2-135m-instruct\ndata: tickets.jsonl\ntask: exact\n") == read(
        tmp_path, SMALLEST
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("learning_rate: 1e-4", 1e-4),
        ("learning_rate: 1E-4", 1e-4),
        ("learning_rate: .001", 1e-3),
        ("steps: 1_000", 1000),
        ("seed: 0x10", 16),
        ("seed: 010", 10),
        ("epochs: 2", 2.0),
        ("epochs: ~", None),
    ],
)
def test_numbers(tmp_path: Path, text: str, value: Any) -> None:
    tune = read(tmp_path, f"{SMALLEST}tune: {{{text}}}").tune
    assert tune.model_dump()[text.partition(":")[0]] == value


@pytest.mark.parametrize("word", ["no", "off", "yes", "y", "NO", "12:30:45", "0o8", "1.2.3"])
def test_words_stay_words(tmp_path: Path, word: str) -> None:
    assert read(tmp_path, f"{SMALLEST}tune: {{adapter: {word}}}").tune.adapter.name == word


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("tune: {seed: 1}\ntune: {seed: 2}", "5:1", 'duplicate key "tune"'),
        ("tune: {seed: 1, seed: 2}", "4:17", 'duplicate key "seed"'),
        ("tune: &here {seed: 1}", "4:7", "anchors, aliases"),
        ("tune: {adapter: *here}", "4:17", "anchors, aliases"),
        ("tune: {seed: !!int 3}", "4:14", "tags"),
        ("tune:\n  <<: {seed: 3}", "5:3", "merge keys"),
        ("tune: {adapter: 2024-01-01}", "4:8", "2024-01-01 is read as a date"),
        ("tune: {adapter: 2001-12-14t21:59:43Z}", "4:8", "is read as a date"),
        ("tune:\n  adapter: {name: lora, 2024-01-01: 3}", "5:25", "the key 2024-01-01 is not a word"),
        ("tune: {3: x}", "4:8", "the key 3 is not a word"),
        ("tune: {? [a] : x}", "4:10", "is not a word"),
        ("prove: {max_forgetting: .inf}", "4:9", "inf is not a finite number"),
        ("prove: {max_forgetting: .nan}", "4:9", "nan is not a finite number"),
        ("tune: {adapter: =}", "4:8", "= has a special meaning"),
        ('tune: {adapter: "\\ud800"}', "4:8", "holds what is no text"),
        ('tune: {adapter: "\\N"}', "4:8", "holds what is no text"),
        ("tune: [1, 2", "5:1", "not valid YAML"),
        ("tune: a: b", "4:8", "not valid YAML"),
        ("---\nmodel: x", "4:1", "another document"),
    ],
)
def test_what_is_refused_is_pointed_at(tmp_path: Path, text: str, place: str, said: str) -> None:
    error = refused(tmp_path, SMALLEST + text + "\n")
    assert said in error.message
    assert str(error).startswith(f"{tmp_path / 'sartor.yaml'}:{place}: ")


def test_a_directive_cannot_bring_back_yaml_1_1(tmp_path: Path) -> None:
    error = refused(tmp_path, f"%YAML 1.1\n---\n{SMALLEST}tune: {{adapter: no}}")
    assert "directives" in error.message
    assert error.where is not None
    assert error.where.line == 1


@pytest.mark.parametrize(
    "scalar",
    ["0x_", "0o_", "._", "9" * 5000, "2024-99-99", '"\\U00110000"', '"\\UFFFFFFFF"', "\x00", "\x07", "[" * 1000],
)
def test_what_the_library_stumbles_over_is_an_error_of_ours(tmp_path: Path, scalar: str) -> None:
    assert "not valid YAML" in refused(tmp_path, f"{SMALLEST}tune: {{adapter: {scalar}}}").message


@pytest.mark.parametrize(("text", "kind"), [("", "empty"), ("- a", "a list"), ("word", "value word"), ("3", "value 3")])
def test_a_recipe_is_a_mapping(tmp_path: Path, text: str, kind: str) -> None:
    assert kind in refused(tmp_path, text).message


def test_byte_order_mark_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    plain = read(tmp_path, SMALLEST)
    (tmp_path / "sartor.yaml").write_bytes(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode())
    assert load(tmp_path / "sartor.yaml") == plain


# ---- errors that point -----------------------------------------------------------------------------------------------


def test_a_typo_answers_with_line_column_and_the_nearest_key(tmp_path: Path) -> None:
    error = refused(tmp_path, f"{SMALLEST}tune:\n  seed: 1\n  lerning_rate: 1e-4\n")
    assert str(error) == f"{tmp_path / 'sartor.yaml'}:6:3: unknown key `tune.lerning_rate`"
    assert error.hint.startswith("did you mean 'learning_rate'? Known: objective, adapter, epochs")


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("tun: {}", 4, "did you mean 'tune'"),
        ("zzz: 1", 4, "known: model, data, task, tune, prove"),
        ("tune:\n  adapter: {name: lora, settings: {r: 1}, rank: 2}", 5, "known: name, settings"),
    ],
)
def test_other_unknown_keys(tmp_path: Path, text: str, line: int, hint: str) -> None:
    error = refused(tmp_path, SMALLEST + text)
    assert "unknown key" in error.message
    assert error.where is not None
    assert error.where.line == line
    assert error.hint.startswith(hint)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, "model: m\ndata: d.jsonl\n").message == "`task` is missing"
    assert refused(tmp_path, "model: {}\ndata: d.jsonl\ntask: exact\n").message == "`model.name` is missing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tune: {seed: -1}", "`tune.seed` is -1: input should be greater than or equal to 0"),
        ("tune: {epochs: many}", "`tune.epochs` is 'many': input should be a valid number"),
        ("tune: 3", "`tune` is 3: input should be a word or a mapping"),
        ("prove: {arms: [tuned, 3]}", "`prove.arms.1` is 3: input should be a valid string"),
    ],
)
def test_a_wrong_value_is_named_and_its_key_explained(tmp_path: Path, text: str, said: str) -> None:
    error = refused(tmp_path, SMALLEST + text)
    assert error.message.startswith(said)
    key = said.split("`")[1].removesuffix(".1")
    assert error.hint == f"`sartor explain {key}` says what it takes"


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe at") as caught:
        load(tmp_path / "sartor.yaml")
    assert "sartor new" in caught.value.hint
    with pytest.raises(RecipeError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "sartor.yaml").write_bytes(b"model: \xff")
    with pytest.raises(RecipeError, match=r"not UTF-8 \(byte 7\)"):
        load(tmp_path / "sartor.yaml")


@SHARED
@given(text=st.one_of(YAML_LIKE, st.text(), YAML_LIKE.map(lambda text: f"{SMALLEST}tune: {text}")))
def test_no_text_crashes_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "sartor.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        recipe = load(tmp_path / "sartor.yaml")
    except RecipeError as error:
        assert error.hint
    else:
        assert len(recipe.digest) == 64


@SHARED
@given(override=st.one_of(YAML_LIKE, YAML_LIKE.map(lambda text: f"tune.adapter={text}"), st.text()))
def test_no_override_crashes_it(tmp_path: Path, override: str) -> None:
    try:
        recipe = read(tmp_path, SMALLEST, override)
    except RecipeError as error:
        assert error.hint
    else:
        assert len(recipe.digest) == 64


# ---- --set -----------------------------------------------------------------------------------------------------------


def test_set_reaches_into_the_tree_and_makes_parents(tmp_path: Path) -> None:
    overrides = (
        "tune.epochs=2",
        "tune.adapter.name=lora",
        "tune.adapter.r=8",
        "data.fields={prompt: question}",
        "prove.arms=[zero_shot, tuned]",
        "task.goal=0.8",
        "data.train=other.jsonl",
    )
    recipe = read(tmp_path, SMALLEST, *overrides)
    assert recipe.tune.epochs == 2
    assert recipe.tune.adapter == Named(name="lora", settings={"r": 8})
    assert recipe.data.fields == {"prompt": "question"}
    assert recipe.data.train == "other.jsonl"
    assert recipe.prove.arms == ("zero_shot", "tuned")
    assert recipe.task.goal == 0.8


def test_set_goes_below_a_bare_word(tmp_path: Path) -> None:
    text = "model: m\ndata: d.jsonl\ntask: exact\ntune: {adapter: lora}\n"
    recipe = read(tmp_path, text, "model.revision=abc", "data.dev=e.jsonl", "task.goal=1", "tune.adapter.r=4")
    assert (recipe.model.name, recipe.model.revision) == ("m", "abc")
    assert (recipe.data.train, recipe.data.dev) == ("d.jsonl", "e.jsonl")
    assert (recipe.task.metric.name, recipe.task.goal) == ("exact", 1)
    assert recipe.tune.adapter == Named(name="lora", settings={"r": 4})


def test_set_to_nothing_takes_a_value_back(tmp_path: Path) -> None:
    assert read(tmp_path, SMALLEST + "tune: {epochs: 3}", "tune.epochs=").tune.epochs is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tune.epochs", "is not of the form a.b=value"),
        ("=3", "is not of the form a.b=value"),
        ("tune.epochs=1\ntune.seed: 3", "holds more than one value"),
        ("tune.epochs=a: b", "not valid YAML"),
        ("tune.lerning_rate=1", "unknown key `tune.lerning_rate`"),
        ("tune..epochs=1", "unknown key `tune.`"),
        ("tune.epochs=2024-01-01", "is read as a date"),
        ("prove.arms.first=tuned", "`prove.arms` is {'first': 'tuned'}"),
    ],
)
def test_a_bad_set_is_refused(tmp_path: Path, override: str, said: str) -> None:
    assert said in refused(tmp_path, SMALLEST, override).message


# ---- what people read, and what runs keep ----------------------------------------------------------------------------


def test_every_knob_says_what_it_does_and_when_to_change_it() -> None:
    knobs = list(fields())
    assert {"model.name", "data.train", "task.metric", "tune.adapter", "prove.arms"} <= {path for path, *_ in knobs}
    for path, what, when, _ in knobs:
        assert len(what) > 15, path
        assert len(when) > 10, path
        assert what.endswith("."), path
        assert when.endswith("."), path
    assert len(knobs) == len({path for path, *_ in knobs})
    assert len(knobs) <= 60, "the sixty-first replaces one"


def test_recipes_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(tmp_path, SMALLEST).tune.seed = 3  # type: ignore[misc]


def test_the_digest_is_the_meaning_not_the_spelling(tmp_path: Path) -> None:
    one = read(tmp_path, SMALLEST + "tune: {adapter: {name: lora, r: 8, alpha: 16}, epochs: 2}")
    other = read(
        tmp_path,
        "# a comment\ntune:\n  epochs: 2.0\n  adapter:\n    alpha: 0x10\n    r: 8\n    name: 'lora'\n"
        "task: exact\ndata: tickets.jsonl\nmodel: {name: smollm2-135m-instruct}\n",
    )
    assert one.digest == other.digest
    assert read(tmp_path, SMALLEST).digest != one.digest
    assert read(tmp_path, SMALLEST, "tune.seed=18").digest != read(tmp_path, SMALLEST).digest


TEXT = st.text(st.characters(exclude_characters="\x85", exclude_categories=["Cs"]), min_size=1)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@SHARED
@given(template=st.dictionaries(TEXT, PLAIN, max_size=3), name=TEXT)
def test_a_run_keeps_the_recipe_as_it_was_asked(tmp_path: Path, template: dict[str, Any], name: str) -> None:
    (tmp_path / "tickets.jsonl").write_text("{}")
    asked = read(tmp_path, SMALLEST)
    asked = asked.model_copy(
        update={
            "model": asked.model.model_copy(update={"template": template, "revision": name}),
            "tune": asked.tune.model_copy(update={"adapter": Named(name=name, settings={"r": 8, "x": name})}),
        }
    )
    kept = store.open_run(tmp_path / "sartor.yaml", asked).recipe
    absolute = asked.data.model_copy(update={"train": str((tmp_path / "tickets.jsonl").resolve())})
    assert kept == asked.model_copy(update={"data": absolute})


@pytest.mark.parametrize(("key", "kind"), [("task.metric", "metrics"), ("tune.objective", "objectives")])
def test_what_is_known_by_name_is_named_where_it_is_explained(key: str, kind: str) -> None:
    (said,) = (what for path, what, *_ in fields() if path == key)
    assert set(known(kind)) <= set(re.findall(r"\w+", said))
