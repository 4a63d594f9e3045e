"""Lineage: every digest that made the adapter, from the plan and from the libraries that are installed."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import pytest
from pydantic import ValidationError

from sartor import __version__
from sartor.artifact.lineage import LIBRARIES, Lineage, lineage

from ..plans import plan  # noqa: TID252 - the tests are no package that could be imported by name

MADE = plan()
FACTS = lineage("tickets", MADE, recipe="recipe digest", renderer="fingerprint", stop_ids=frozenset({9, 2}))


def test_every_fact_is_where_it_belongs() -> None:
    assert (FACTS.name, FACTS.method) == ("tickets", "lora")
    assert (FACTS.base.name, FACTS.base.path, FACTS.base.revision, FACTS.base.digest) == ("m", "/m", "local", "d")
    assert (FACTS.recipe, FACTS.renderer, FACTS.data) == ("recipe digest", "fingerprint", "e")
    assert FACTS.plan == MADE.digest
    assert FACTS.stop_ids == (2, 9)
    assert (FACTS.sartor, FACTS.python) == (__version__, platform.python_version())
    assert FACTS.libraries == {name: metadata.version(name) for name in LIBRARIES}
    assert {"torch", "transformers", "peft", "tokenizers", "safetensors"} <= set(FACTS.libraries)


def test_it_comes_back_from_disk() -> None:
    text = json.dumps(FACTS.model_dump(mode="json", by_alias=True))
    assert json.loads(text)["schema"] == 1
    assert Lineage.model_validate_json(text) == FACTS


def test_another_plan_has_another_lineage() -> None:
    other = lineage("tickets", plan(seed=18), recipe="recipe digest", renderer="fingerprint", stop_ids=frozenset())
    assert other.plan != FACTS.plan
    assert other.stop_ids == ()


def test_it_says_whether_the_base_is_needed() -> None:
    whole = plan(adapter={"name": "full"}, family="full")
    assert FACTS.holds == "adapter"
    assert lineage("t", whole, recipe="r", renderer="f", stop_ids=frozenset()).holds == "model"
    older = {name: value for name, value in FACTS.model_dump(by_alias=True).items() if name != "holds"}
    assert Lineage.model_validate(older) == FACTS


def test_unknown_facts_are_refused() -> None:
    with pytest.raises(ValidationError):
        Lineage.model_validate({**FACTS.model_dump(by_alias=True), "surprise": 1})
