"""The table of tuning methods: one row each, counts of the chosen model, figures only where they were measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from sartor import methods
from sartor.adapters import methods as known_methods
from sartor.adapters.method import Server
from sartor.catalogue import CATALOGUE
from sartor.sizing import shape_of

SHAPES = [shape_of(card) for card in CATALOGUE[:2]]


def test_every_method_has_one_row() -> None:
    rows = methods.table(SHAPES[0])
    assert sorted(row.name for row in rows) == sorted(known_methods())
    for row in rows:
        assert row.family == known_methods()[row.name]
        assert bool(row.trainable) != bool(row.needs), row.name
        assert set(row.served_by) <= set(get_args(Server))


def test_parameters_are_those_of_the_model() -> None:
    one, other = ({row.name: row.trainable for row in methods.table(shape)} for shape in SHAPES)
    assert one["lora"] != other["lora"]


def test_a_family_stands_together_its_own_name_first() -> None:
    families: dict[str, list[str]] = {}
    for row in methods.table(SHAPES[0]):
        families.setdefault(row.family, []).append(row.name)
    assert list(families) == sorted(families)
    assert all(members[0] == family for family, members in families.items())


def test_without_measurements_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "MEASURED", tmp_path / "none.json")
    assert methods.measured_on() == ""
    assert {row.speed for row in methods.table(SHAPES[0])} == {0.0}


def test_what_was_measured_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "methods.json"
    file.write_text(json.dumps({"cost": "2026-01-01, a machine", "methods": {"lora": {"speed": 1.0, "memory": 1.5}}}))
    monkeypatch.setattr(methods, "MEASURED", file)
    assert methods.measured_on() == "2026-01-01, a machine"
    (lora,) = (row for row in methods.table(SHAPES[0]) if row.name == "lora")
    assert (lora.speed, lora.memory) == (1.0, 1.5)
