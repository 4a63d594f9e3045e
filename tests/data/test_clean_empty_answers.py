"""Answers with nothing in them."""

from __future__ import annotations

import pytest

from sartor.types import Chat, Message, ToolCall

from .rows import reasons, talk


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty_answer"),
        (" \n", "empty_answer"),
        ("...", "empty_answer"),
        ("NaN", "placeholder"),
        ("[deleted]", "placeholder"),
    ],
)
def test_they_go(answer: str, reason: str) -> None:
    assert reasons("empty_answers", talk(answer)) == [reason]


@pytest.mark.parametrize("answer", ["no", "0", "+", "None", "€", "否", "👍", "n/a"])
def test_short_answers_stay(answer: str) -> None:
    assert reasons("empty_answers", talk(answer)) == []


def test_a_call_is_an_answer() -> None:
    row = talk("")
    call = Message(role="assistant", tool_calls=(ToolCall(name="look", arguments={}),))
    assert reasons("empty_answers", Chat(source=row.source, messages=(row.messages[0], call))) == []


def test_marks_can_be_answers() -> None:
    assert reasons("empty_answers", talk("?!"), marks=False) == []
    assert reasons("empty_answers", talk("none"), placeholders=["none"]) == ["placeholder"]
