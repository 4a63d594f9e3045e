"""Columns as texts."""

from __future__ import annotations

import pytest

from sartor.build.columns import filled, written
from sartor.errors import FieldError

ROW = {
    "subject": "Help",
    "body": "It is broken",
    "stars": 4,
    "note": None,
    "blank": " ",
    "deep": {"a": [1, "ä"]},
    "a b": "x",
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("body", "It is broken"),
        ("Subject: {subject}\n{body}", "Subject: Help\nIt is broken"),
        ("{stars} of 5{note}", "4 of 5"),
        ("{{stars}} {stars}", "{stars} 4"),
        ("{deep}", '{"a": [1, "ä"]}'),
        ("{a b}", "x"),
        ("stars", "4"),
    ],
)
def test_templates_are_filled(template: str, text: str) -> None:
    value = filled(template, ROW)
    assert value.replace("{{", "{").replace("}}", "}") == text


@pytest.mark.parametrize("template", ["title", "{title}", "blank", "note", "{note}{blank}"])
def test_what_is_not_there_is_named(template: str) -> None:
    with pytest.raises(FieldError):
        filled(template, ROW)


def test_a_template_runs_nothing() -> None:
    with pytest.raises(FieldError, match=r"subject\.__class__"):
        filled("{subject.__class__}", ROW)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", ["\ud800"], {"k": float("nan")}])
def test_what_no_file_can_hold_is_refused(value: object) -> None:
    with pytest.raises(FieldError):
        written(value, "column")
