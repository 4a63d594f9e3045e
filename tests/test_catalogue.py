"""The catalogue: every card can be read, found and told apart."""

from __future__ import annotations

from sartor import hub
from sartor.catalogue import CATALOGUE, card


def test_names_are_lower_case_and_told_apart() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and "/" not in name for name in names)


def test_a_card_is_found_whatever_its_case() -> None:
    found = card("SmolLM2-135M-Instruct")
    assert found is not None
    assert found.name == "smollm2-135m-instruct"
    assert card("no such model") is None


def test_facts_are_there_and_plausible() -> None:
    for entry in CATALOGUE:
        assert 100 <= entry.parameters <= 10_000, entry.name
        assert 2048 <= entry.context <= 2**20, entry.name
        assert entry.family
        assert entry.licence
        assert entry.cutoff
        assert entry.tunable_on
        assert entry.source == "embedded" or entry.source.count("/") == 1, entry.name


def test_embedded_models_are_those_that_a_package_carries() -> None:
    assert {entry.name for entry in CATALOGUE if entry.source == "embedded"} == set(hub.EMBEDDED)
