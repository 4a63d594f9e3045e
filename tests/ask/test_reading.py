"""Answers of models, which never say just what they were asked to."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.ask.reading import Unreadable, filled, object_of, objects_of, schema_of

RIGHT = {"question": "Why?", "answer": "So."}
SAID = json.dumps(RIGHT)


@pytest.mark.parametrize(
    "text",
    [
        SAID,
        f"Sure! Here it is:\n```json\n{SAID}\n```\nAnything else?",
        f'<think>maybe {{"question": 1}}</think>{SAID}',
        f'{{not json}} {SAID} {{"question": "another"}}',
        f"{{}} {SAID}",
        f"{SAID}{SAID}",
    ],
)
def test_the_object_is_found_among_words(text: str) -> None:
    assert object_of(text) == RIGHT


def test_line_ends_within_strings_are_forgiven() -> None:
    assert object_of('{"a": "one\ntwo"}') == {"a": "one\ntwo"}


@pytest.mark.parametrize("text", ["", "no", "[1]", '{"a": ', "{" * 100_000, '{"a":' * 50_000, "<think>" + SAID])
def test_where_there_is_none_it_says_so(text: str) -> None:
    with pytest.raises(Unreadable) as found:
        object_of(text)
    assert found.value.reason == "not_json"


@pytest.mark.parametrize("value", [{}, {"a": ""}, {"a": " "}, {"a": 3}, {"a": None}, {"a": ["x"]}, {"a": "\0"}])
def test_a_text_that_is_not_there(value: dict[str, object]) -> None:
    with pytest.raises(Unreadable) as found:
        filled(value, "a")
    assert found.value.reason == "wrong_keys"


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(Unreadable):
        filled(object_of('{"a": "\\ud800"}'), "a")


@pytest.mark.parametrize(
    ("text", "members", "whole"),
    [
        (f'{{"pairs": [{SAID}, {SAID}]}}', [RIGHT, RIGHT], True),
        ('{"pairs": []}', [], True),
        (f'{{"pairs": [{SAID}, {SAID}, {{"question": "Wh', [RIGHT, RIGHT], False),
        (f'{{"pairs": [{SAID}}}]}}', [RIGHT], False),
    ],
)
def test_of_a_list_that_breaks_off_what_came_before_is_kept(text: str, members: list[object], whole: bool) -> None:
    assert objects_of(text, "pairs") == (members, whole)


@pytest.mark.parametrize("text", ['{"pairs": 3}', '{"pairs": null}', '{"pears": []}', SAID, "[]", ""])
def test_where_there_is_no_list_it_says_so(text: str) -> None:
    with pytest.raises(Unreadable):
        objects_of(text, "pairs")


def test_a_schema_is_strict() -> None:
    schema = schema_of(a="first", b="second")
    assert schema["required"] == ["a", "b"]
    assert schema["additionalProperties"] is False


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_no_answer_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(Unreadable):
        assert isinstance(object_of(text), dict)
    assert object_of(f"{text.replace('{', '')}{SAID}" if "<think>" not in text else SAID) == RIGHT
