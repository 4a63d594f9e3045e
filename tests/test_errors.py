"""Errors: each names the thing and the way out, and the class decides the exit code."""

from __future__ import annotations

import inspect

import pytest

from sartor import errors
from sartor.errors import FieldError, SartorError, UserError, Where

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SartorError)]


def test_the_hint_is_required() -> None:
    with pytest.raises(TypeError, match="hint"):
        SartorError("it broke")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (Where("a.jsonl"), "a.jsonl"),
        (Where("a.jsonl", 3), "a.jsonl:3"),
        (Where("a.yaml", 3, column=7), "a.yaml:3:7"),
        (Where("a.jsonl", 3, "messages[0].role"), "a.jsonl:3, field `messages[0].role`"),
    ],
)
def test_places(where: Where, text: str) -> None:
    assert str(where) == text
    assert str(SartorError("it broke", hint="mend it", where=where)) == f"{text}: it broke"


def test_without_a_place_the_message_stands_alone() -> None:
    error = SartorError("it broke", hint="mend it")
    assert str(error) == error.message == "it broke"
    assert error.hint == "mend it"


@pytest.mark.parametrize("kind", CLASSES)
def test_exit_codes(kind: type[SartorError]) -> None:
    expected = 2 if issubclass(kind, UserError) else 1 if kind is errors.Refused else 3
    assert kind.exit_code == expected
    assert kind.__doc__


def test_the_users_mistakes() -> None:
    names = {kind.__name__ for kind in CLASSES if kind.exit_code == 2}
    assert names == {"UserError", "RecipeError", "DataError", "FieldError", "ModelError"}


def test_a_field_error_says_seen_and_expected() -> None:
    error = FieldError("messages[2].content", seen="a number", expected="text")
    assert str(error) == "saw a number, expected text"
    assert (error.field, error.seen, error.expected) == ("messages[2].content", "a number", "text")
    assert error.hint
