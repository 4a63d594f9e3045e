"""Each metric on answers that models give, right and wrong, and the opening of metrics by name."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import unicodedata
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor import stats
from sartor.errors import DataError, RecipeError
from sartor.metrics import choice, contains, exact, f1, load
from sartor.metrics.normalise import WORDS, Normalisation, normalised
from sartor.types import Chat, Message, Score, Source

TICKETS = choice.Config(options=("urgent", "not urgent", "Billing", "C", "C++", "紧急", "普通"))


def chat(target: str) -> Chat:
    messages = (Message(role="user", content="?"), Message(role="assistant", content=target))
    return Chat(source=Source(file="tickets.jsonl", line=7), messages=messages)


# normalise


def test_normalised_makes_equal_what_it_is_asked_to() -> None:
    text = "  Cafe\u0301 \n\t STRASSE "
    assert normalised(text, Normalisation()) == "Café \n\t STRASSE"
    assert normalised(text, Normalisation(ignore_case=True)) == "café \n\t strasse"
    assert normalised("Straße", WORDS) == "strasse"
    assert normalised(text, Normalisation(ignore_space=True)) == "Café STRASSE"


@given(st.text())
def test_normalised_does_not_depend_on_the_unicode_form(text: str) -> None:
    for how in (Normalisation(), WORDS):
        assert normalised(unicodedata.normalize("NFD", text), how) == normalised(text, how)


def test_unknown_options_are_errors() -> None:
    with pytest.raises(ValidationError, match="ignore_cas"):
        exact.Config.model_validate({"ignore_cas": True})


# exact


@pytest.mark.parametrize(
    ("target", "output", "detail"),
    [
        ("call(a=1)", " call(a=1)\n", ""),
        ("caf\u00e9", "cafe\u0301", ""),
        ("call(x=y)", "call(x=x)", "differs at character 8: saw 'x', expected 'y'"),
        ("yes", "yes.", "differs at character 4: saw '.', expected the end"),
        ("yes", "ye", "differs at character 3: saw the end, expected 's'"),
        ("yes", "", "differs at character 1: saw the end, expected 'y'"),
        ("", "no", "differs at character 1: saw 'n', expected the end"),
        ("Yes", "yes", "differs at character 1: saw 'y', expected 'Y'"),
        ("a b", "a\nb", "differs at character 2: saw '\\n', expected ' '"),
    ],
)
def test_exact(target: str, output: str, detail: str) -> None:
    assert exact.score(exact.Config(), chat(target), output) == Score(value=float(not detail), detail=detail)


def test_exact_ignores_what_it_is_told_to() -> None:
    assert exact.score(exact.Config(ignore_case=True), chat("Yes"), "yES").value == 1
    assert exact.score(exact.Config(ignore_space=True), chat("a b"), "a \n b").value == 1
    assert exact.score(exact.Config(ignore_space=True), chat("a b"), "ab").value == 0
    assert exact.score(exact.Config(ignore_space=True), chat("a b"), "A b").value == 0


# contains


def test_contains() -> None:
    config = contains.Config()
    assert contains.score(config, chat("42"), "The answer is 42.") == Score(value=1.0)
    assert contains.score(config, chat("42"), "The answer is 4 2.") == Score(value=0.0, detail="'42' does not appear")
    assert contains.score(config, chat("Paris"), "paris").value == 0
    assert contains.score(contains.Config(ignore_case=True), chat("Paris"), "in PARIS").value == 1
    assert contains.score(contains.Config(ignore_space=True), chat("a b"), "x a\n b x").value == 1


def test_contains_does_not_find_an_empty_target_everywhere() -> None:
    assert contains.score(contains.Config(), chat(" "), "anything").value == 0
    assert contains.score(contains.Config(), chat(" "), "\n").value == 1


def test_contains_quotes_a_long_target_in_part() -> None:
    assert len(contains.score(contains.Config(), chat("x" * 5000), "").detail) < 120


# choice


@pytest.mark.parametrize(
    ("target", "output"),
    [
        ("urgent", "urgent"),
        ("urgent", "\n  **Urgent.**\nnot urgent, billing and so on"),
        ("urgent", "This ticket is urgent, very URGENT!"),
        ("urgent", "_urgent_ it is"),
        ("not urgent", "It is not\nurgent"),
        ("not urgent", "```\nNot urgent\n```"),
        ("Billing", "Label: billing"),
        ("C++", "Written in C++, I think."),
        ("C++", "C++."),
        ("C", "plain C"),
        ("紧急", "这是紧急工单。"),
        ("紧急", "the label is紧急"),
        ("new label", "new label"),
    ],
)
def test_choice_reads_the_answer(target: str, output: str) -> None:
    assert choice.score(TICKETS, chat(target), output) == Score(value=1.0)


@pytest.mark.parametrize(
    ("target", "output", "detail"),
    [
        ("urgent", "It is not urgent", "states 'not urgent', expected 'urgent'"),
        ("urgent", "urgent, billing", "states 2 labels: 'Billing' and 'urgent', expected only 'urgent'"),
        ("urgent", "not urgent? No: urgent", "states 2 labels: 'not urgent' and 'urgent', expected only 'urgent'"),
        ("urgent", "urgently needed", "states no label, expected 'urgent'"),
        ("urgent", "insurgent", "states no label, expected 'urgent'"),
        ("urgent", "non-urgent", "states no label, expected 'urgent'"),
        ("urgent", "not_urgent", "states no label, expected 'urgent'"),
        ("urgent", "", "states no label, expected 'urgent'"),
        ("urgent", "...", "states no label, expected 'urgent'"),
        ("C", "in C++", "states 'C++', expected 'C'"),
        ("紧急", "普通", "states '普通', expected '紧急'"),
    ],
)
def test_choice_tells_why_not(target: str, output: str, detail: str) -> None:
    assert choice.score(TICKETS, chat(target), output) == Score(value=0.0, detail=detail)


def test_choice_without_options_knows_only_the_target() -> None:
    assert choice.score(choice.Config(), chat("urgent"), "urgent or billing").value == 1
    assert choice.score(choice.Config(), chat("urgent"), "billing").value == 0


def test_choice_takes_labels_that_differ_in_case_for_one() -> None:
    config = choice.Config(options=("Urgent", "urgent", "normal"))
    assert choice.score(config, chat("urgent"), "It is Urgent").value == 1


def test_choice_takes_a_label_of_several_lines_whole() -> None:
    config = choice.Config(options=("a", "a\nb"))
    assert choice.score(config, chat("a\nb"), "a\nb").value == 1
    assert choice.score(config, chat("a"), "a\nb").value == 0


def test_choice_with_an_empty_label() -> None:
    config = choice.Config(options=("", "spam"))
    assert choice.score(config, chat(""), " ").value == 1
    assert choice.score(config, chat(""), "...").value == 0
    assert choice.score(config, chat("spam"), "it is spam").value == 1


def test_choice_minds_vowel_signs() -> None:
    config = choice.Config(options=("काम",))
    assert choice.score(config, chat("काम"), "यह काम है").value == 1
    assert choice.score(config, chat("काम"), "यह कामी है").value == 0


@given(st.sampled_from(TICKETS.options), st.sampled_from(TICKETS.options))
def test_choice_scores_one_exactly_for_the_right_label(target: str, output: str) -> None:
    assert choice.score(TICKETS, chat(target), output).value == (target == output)


# f1


@pytest.mark.parametrize(
    ("target", "output", "value"),
    [
        ("the red fox", "The red fox!", 1.0),
        ("the red fox", "fox red the", 1.0),
        ("red fox", "a red dog", 0.4),  # 2 · 1 / (2 + 3)
        ("red red fox", "red", 0.5),  # the second red is missing: 2 · 1 / (3 + 1)
        ("red", "red red red", 0.5),
        ("don't", "dont", 1.0),
        ("北京市", "北京", 0.8),  # 2 · 2 / (3 + 2)
        ("東京タワー", "東京タワー。", 1.0),
        ("서울 시", "서울", 2 / 3),
        ("fox", "dog", 0.0),
        ("", "  ", 1.0),
        ("", "x", 0.0),
        ("x", "", 0.0),
        ("?", "?", 1.0),
        ("?", "", 0.0),
        ("?", "!", 0.0),
    ],
)
def test_f1(target: str, output: str, value: float) -> None:
    scored = f1.score(f1.Config(), chat(target), output)
    assert scored.value == pytest.approx(value)
    assert bool(scored.detail) == (value < 1)


def test_f1_says_what_it_counted() -> None:
    detail = f1.score(f1.Config(), chat("red fox"), "a red dog").detail
    assert detail == "1 words in common, of 3 in the answer and 2 in the target"


@given(st.text(), st.text())
def test_f1_is_symmetric(one: str, other: str) -> None:
    there, back = f1.score(f1.Config(), chat(one), other), f1.score(f1.Config(), chat(other), one)
    assert there.value == back.value


# load


def test_listing_the_metrics_loads_no_numpy() -> None:
    code = "import sys; from sartor import names; assert names.known('metrics'); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


USERS_OWN = """
from sartor.types import Score
LIMIT = 5
def length(example, output):
    return len(output) / len(example.target)
def as_given(example, output):
    return RESULT
def scored(example, output):
    return Score(value=0.5, detail="half")
def alone(output):
    return 1.0
class Judge:
    def __call__(self, example, output, strict=False):
        return float(output == example.target)
judge = Judge()
"""


@pytest.fixture
def users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the user on the path, of another name in each test, since imports are remembered."""
    name = "users_own_" + "".join(character if character.isalnum() else "_" for character in request.node.name)
    (tmp_path / f"{name}.py").write_text(USERS_OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def give(module: str, result: object) -> Score:
    """What the wrapped metric makes of a user's function that returns `result`."""
    metric = load.load(f"{module}:as_given")
    importlib.import_module(module).RESULT = result
    return metric.score(metric.config_type(), chat("x"), "x")


def test_load_opens_a_file_of_the_folder() -> None:
    metric = load.load("exact")
    assert metric == load.Metric("exact", exact.Config, exact.score, stats.summarise)


def test_load_opens_the_users_own_function(users_own: str) -> None:
    metric = load.load(f"{users_own}:length")
    config = metric.config_type()
    assert metric.score(config, chat("abcd"), "abc") == Score(value=0.75)
    assert metric.reduce([Score(value=0.0)] * 20).high == pytest.approx(0.161125, abs=1e-6)


def test_load_opens_objects_that_can_be_called_and_keeps_scores(users_own: str) -> None:
    judge, scored = load.load(f"{users_own}:judge"), load.load(f"{users_own}:scored")
    assert judge.score(judge.config_type(), chat("x"), "x") == Score(value=1.0)
    assert scored.score(scored.config_type(), chat("x"), "x") == Score(value=0.5, detail="half")


@pytest.mark.parametrize("result", [1, True, 0.5, np.float32(0.5), Fraction(1, 2)])
def test_load_takes_any_real_number(users_own: str, result: object) -> None:
    assert give(users_own, result) == Score(value=float(result))


@pytest.mark.parametrize(
    "result", [1.01, -0.5, math.nan, math.inf, None, "1", [1.0], 1j, Score(value=7.0), Score(value=math.nan)]
)
def test_load_refuses_what_is_no_score_and_names_item_and_value(users_own: str, result: object) -> None:
    with pytest.raises(DataError) as caught:
        give(users_own, result)
    value = result.value if isinstance(result, Score) else result
    assert repr(value) in str(caught.value)
    assert "tickets.jsonl:7" in str(caught.value)
    assert "as_given" in str(caught.value)


def test_load_refuses_what_is_no_function_of_two(users_own: str) -> None:
    with pytest.raises(RecipeError, match="LIMIT' is of type int, not a function"):
        load.load(f"{users_own}:LIMIT")
    with pytest.raises(RecipeError, match="alone' cannot be called with two arguments"):
        load.load(f"{users_own}:alone")


def test_load_refuses_unknown_names_with_the_nearest(users_own: str) -> None:
    with pytest.raises(RecipeError, match="unknown metric 'exakt'") as caught:
        load.load("exakt")
    assert "did you mean 'exact'" in caught.value.hint
    for helper in ("load", "normalise"):
        with pytest.raises(RecipeError, match="unknown metric"):
            load.load(helper)
    with pytest.raises(RecipeError, match="no module"):
        load.load("no_such_module_here:score")
    with pytest.raises(RecipeError, match="has no 'lenght'") as caught:
        load.load(f"{users_own}:lenght")
    assert "did you mean 'length'" in caught.value.hint


def test_perplexity_is_the_mean_probability_of_a_token() -> None:
    from sartor.metrics import perplexity
    from sartor.types import Source, Text

    text = Text(source=Source(file="a.txt", line=1), text="x")
    assert perplexity.score(perplexity.Config(), text, 0.0).value == 1.0
    half = perplexity.score(perplexity.Config(), text, -0.6931471805599453)
    assert half.value == pytest.approx(0.5)
    assert half.detail == "perplexity 2.00"
    assert perplexity.score(perplexity.Config(), text, -1e9).value == 0.0
