"""Explain: every key of the recipe has words, and says what was asked and decided here."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from sartor.backends import estimate
from sartor.catalogue import card
from sartor.errors import UserError
from sartor.explain import explain, plan_document
from sartor.plan import Choice, Estimate, Plan
from sartor.recipe import Recipe, fields
from sartor.sizing import shape_of

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


# ---- the arithmetic --------------------------------------------------------------------------------------------------


def sized(**changes: Any) -> Plan:
    """A plan for SmolLM2 with the memory that it would take."""
    found = card("smollm2-135m-instruct")
    assert found is not None
    job = estimate.Job(
        shape=shape_of(found), item_bytes=4, num_trainable=4_884_480, micro_tokens=1024, longest=300, low_rank=112
    )
    values = {
        "adapter": Choice(name="lora", settings={"r": 16}),
        "optimizer": "adamw",
        "num_trainable": 4_884_480,
        "micro_tokens": 1024,
        "max_length": 300,
        "estimate": Estimate(
            peak_bytes=1,
            seconds=60,
            tokens=9,
            memory=estimate.memory(job, estimate.CPU),
            stages={"train": 99, "prove": 1},
        ),
        "advice": ("LoRA.",),
    }
    return plan(**{**values, **changes})


def document(*, arithmetic: bool) -> tuple[Any, str]:
    found = card("smollm2-135m-instruct")
    assert found is not None
    return plan_document(sized(), shape_of(found), arithmetic=arithmetic)


def test_the_arithmetic_puts_numbers_in_and_adds_up() -> None:
    made, text = document(arithmetic=True)
    items = {line["item"]: line for line in made["arithmetic"]}
    assert items["base weights"]["arithmetic"] == "134.5 M parameters × 4 bytes (fp32)"
    assert items["gradients"]["arithmetic"] == "4.88 M trained × 4 bytes (fp32)"
    assert items["optimizer, two moments"]["arithmetic"] == "4.88 M trained × 8 bytes (Adam: two in fp32)"
    saved = items["activations saved for the backward"]
    factors = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", saved["arithmetic"])]
    assert factors[:2] == [1024, 30]
    assert saved["num_bytes"] == math.prod(factors)
    parts = [line["num_bytes"] for line in made["arithmetic"] if line["item"].startswith("  ")]
    assert sum(parts) * 1024 * 30 == saved["num_bytes"]
    whole = sum(line["num_bytes"] for line in made["arithmetic"] if not line["item"].startswith("  "))
    assert whole == sized().estimate.memory["train"].total
    assert f"{whole / 2**30:,.2f} GiB" in text
    assert "512 positions × 49,152 words × 4 bytes" in text


def test_without_it_there_is_time_and_advice() -> None:
    made, text = document(arithmetic=False)
    assert made == sized().model_dump(mode="json", by_alias=True)
    assert text == "the whole run: 2 min (train 2 min, prove 1 s)\nLoRA."


def test_columns_stand_below_each_other() -> None:
    lines = document(arithmetic=True)[1].splitlines()
    rows = [line for line in lines if " × " in line]
    assert len({re.search(r"\d (MiB|GiB)  ", line).end() for line in rows}) == 1  # type: ignore[union-attr]
    assert max(map(len, lines)) < 180


def test_a_plan_without_itemised_memory_has_no_arithmetic() -> None:
    found = card("smollm2-135m-instruct")
    assert found is not None
    bare = sized(estimate=Estimate(peak_bytes=1, seconds=1, tokens=1))
    assert plan_document(bare, shape_of(found), arithmetic=True)[0]["arithmetic"] == []
