"""Which parts of a text are code."""

from __future__ import annotations

import pytest

from sartor.data.finding import code


@pytest.mark.parametrize(
    "question", ["Write HTML for a list", "a regex for dates?", "What does the <br> tag do?", "escape & in XML"]
)
def test_asked_for(question: str) -> None:
    assert code.asks_for_markup(question)


@pytest.mark.parametrize(
    "question",
    [
        "What is a heron?",
        "Wie spät ist es?",
        "the programmed death of cells",
        "encode, decode",
        "Where do I enter the code?",
    ],
)
def test_not_asked_for(question: str) -> None:
    assert not code.asks_for_markup(question)


def test_only_what_is_no_code_is_edited() -> None:
    text = "a\n```\na\n```\na `a` a\n\n    a\n\na"
    assert code.outside_code(text, str.upper) == "A\n```\na\n```\nA `a` A\n\n    a\n\nA"
    assert "a" not in code.without_code("`a`\n```\na").replace(" ", "")
    assert code.outside_code("x ```\nopen", str.upper) == "X ```\nOPEN"
    assert code.outside_code("x\n```\nopen", str.upper) == "X\n```\nopen"


@pytest.mark.parametrize(
    "text", ["<!DOCTYPE html><p>", "int main() {\n  return 0;\n}", "def f(x):", "<style>a</style>", "{{ user }}"]
)
def test_programs_and_pages(text: str) -> None:
    assert code.is_code(text)


@pytest.mark.parametrize("text", ["From here, one sees the sea.", "<p>Hi</p>", "Let us go; it is late. Then we went"])
def test_prose(text: str) -> None:
    assert not code.is_code(text)
