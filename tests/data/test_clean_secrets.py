"""The cleaner of secrets, over whole examples."""

from __future__ import annotations

from .rows import answer, outcomes, reasons, talk
from .test_finding_secret_shapes import KEYS


def test_masked_with_its_kind_and_never_told() -> None:
    for value, kind in KEYS:
        (outcome,) = outcomes("secrets", [talk(f"use {value} now")])
        assert [entry.reason for entry in outcome.entries] == [kind], value
        assert all(value not in entry.model_dump_json() for entry in outcome.entries)
        assert answer("secrets", talk(f"use {value} now")) == f"use [{kind.upper()}] now"


def test_overlapping_finds_are_masked_once() -> None:
    key = KEYS[0][0]
    assert answer("secrets", talk(f'api_key = "{key}"')) == 'api_key = "[API_KEY]"'


def test_dropped_or_told() -> None:
    row = talk(KEYS[1][0])
    assert reasons("secrets", row, action="report") == [KEYS[1][1]]
    (outcome,) = outcomes("secrets", [row], action="drop")
    assert outcome.example is None
