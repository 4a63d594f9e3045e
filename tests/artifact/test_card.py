"""The model card: a head that hubs can read, and the numbers of the proof."""

from __future__ import annotations

from typing import Any

import pytest
from ruamel.yaml import YAML

from sartor.artifact.card import model_card
from sartor.plan import Choice, Plan

from ..plans import plan  # noqa: TID252 - the tests are no package that could be imported by name
from ..proofs import proof  # noqa: TID252


def head(card: str) -> Any:
    """The YAML between the first two lines of dashes."""
    empty, text, _ = card.split("---\n", maxsplit=2)
    assert empty == ""
    return YAML(typ="safe", pure=True).load(text)


def of_base(name: str) -> Plan:
    made = plan(num_trainable=4_884_480, learning_rate=1e-3)
    return made.model_copy(update={"model": made.model.model_copy(update={"name": name, "revision": "abc"})})


def test_the_head_is_read_by_hubs() -> None:
    assert head(model_card("tickets", of_base("smollm2-135m-instruct"), proof())) == {
        "base_model": "smollm2-135m-instruct",
        "library_name": "peft",
        "tags": ["sartor", "lora"],
    }


@pytest.mark.parametrize(
    "name", ["HuggingFaceTB/SmolLM2-135M", "./my model: v1", "no", "1e5", 'say "hi"', "# a", "back\\slash", "[x]", "ü"]
)
def test_any_name_of_a_base_comes_back(name: str) -> None:
    assert head(model_card("tickets", of_base(name), proof()))["base_model"] == name


def test_the_card_has_the_numbers_of_the_proof() -> None:
    card = model_card("tickets-1a2b", of_base("m"), proof())
    assert card.splitlines()[6] == "# tickets-1a2b"
    assert proof().sentence in card
    assert "Verdict: **ship**, by `exact` on 60 held-out items" in card
    for arm in proof().arms:
        assert f"| {arm.name} | {arm.score:.1%} | {arm.low:.1%} to {arm.high:.1%} |" in card
    assert "Perplexity on general text: 20.00 before, 21.00 after (+5.0%)." in card
    assert "`lora` on `m` (revision `abc`): 10 steps of 2 examples, learning rate 0.001,\n4,884,480 trained" in card
    assert "\nsartor serve path/to/this/folder\n" in card and "`sartor serve tickets-1a2b`" in card
    assert "{" not in card, "nothing is left to fill in"


def test_without_forgetting_nothing_is_said_of_it() -> None:
    assert "Perplexity" not in model_card("t", plan(), proof(forgetting=None))


def test_the_method_is_named() -> None:
    card = model_card("t", plan(adapter=Choice(name="dora")), proof())
    assert head(card)["tags"] == ["sartor", "dora"]


def test_a_whole_model_is_loaded_without_peft() -> None:
    card = model_card("t", plan(adapter=Choice(name="full"), family="full"), proof())
    assert head(card)["library_name"] == "transformers"
    assert "PEFT" not in card
    assert "this is a whole model" in card
    assert "with plain PEFT" in model_card("t", plan(), proof())
