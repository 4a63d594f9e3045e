"""Explain: every key of the recipe has words, and says what was asked and decided here."""

from __future__ import annotations

import pytest

from sartor.errors import UserError
from sartor.explain import explain
from sartor.plan import Plan
from sartor.recipe import Recipe, fields

from .plans import plan

KEYS = [path for path, *_ in fields()]
RECIPE = Recipe.model_validate(
    {
        "model": "smollm2-135m-instruct",
        "data": "tickets.jsonl",
        "task": {"metric": "exact", "goal": 0.8},
        "tune": {"adapter": {"name": "lora", "r": 4}, "learning_rate": 0.5},
    }
)


def decided() -> Plan:
    reasons = {
        "batch_size": "40 examples",
        "proof.batch_size": "beyond 32 rows no faster",
        "learning_rate": "asked for in the recipe",
        "proof.items": "20 are held out",
        "adapter": "as the recipe says",
        "proof.metric": "asked for in the recipe",
    }
    return plan(reasons=reasons)


def line(text: str, label: str) -> str:
    """What stands behind a label."""
    (found,) = (line.removeprefix(f"  {label}").strip() for line in text.splitlines() if line.startswith(f"  {label} "))
    return found


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_explained(key: str) -> None:
    for recipe, made in ((None, None), (RECIPE, None), (RECIPE, decided())):
        text = explain(key, recipe, made)
        assert text.splitlines()[0] == key
        assert len(line(text, "what")) > 15
        assert len(line(text, "when")) > 10
        assert line(text, "default")
        assert "settings=" not in text, "no Python in what people read"
        assert "None" not in text


def test_what_was_asked_and_decided() -> None:
    text = explain("tune.learning_rate", RECIPE, decided())
    assert line(text, "default") == "decided by the plan"
    assert line(text, "asked") == "0.5"
    assert line(text, "decided") == "0.5: asked for in the recipe"
    assert line(explain("tune.epochs", RECIPE, None), "asked") == "nothing"
    assert line(explain("data.test", None, None), "default") == "none", "no plan ever brings a test file"
    assert line(explain("task.goal", RECIPE, None), "asked") == "0.8"


def test_settings_are_shown_with_their_name() -> None:
    text = explain("tune.adapter", RECIPE, decided())
    assert line(text, "default") == "lora"
    assert line(text, "asked") == "lora {'r': 4}"
    assert line(text, "decided") == "lora: as the recipe says"
    assert line(explain("task.metric", RECIPE, decided()), "decided") == "exact: asked for in the recipe"
    assert line(explain("task.metric", RECIPE, None), "default") == "required"


def test_a_key_is_not_given_the_decision_of_its_namesake() -> None:
    text = explain("tune.batch_size", RECIPE, decided())
    assert line(text, "decided") == "2: 40 examples"
    assert "32" not in text
    assert line(explain("prove.items", RECIPE, decided()), "decided") == "20: 20 are held out"


def test_a_section_explains_all_of_its_keys() -> None:
    text = explain("prove", None, None)
    assert [key for key in KEYS if f"\n{key}\n" in f"\n{text}\n"] == [key for key in KEYS if key.startswith("prove.")]
    assert explain("", None, None).count("  what ") == len(KEYS)


@pytest.mark.parametrize(("key", "near"), [("tune.lerning_rate", "tune.learning_rate"), ("data.trian", "data.train")])
def test_an_unknown_key_is_answered_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(UserError, match=f"no recipe key '{key}'") as caught:
        explain(key, None, None)
    assert f"did you mean '{near}'" in caught.value.hint


def test_the_beginning_of_a_word_is_no_section() -> None:
    with pytest.raises(UserError):
        explain("tun", None, None)
