"""What is done with parts of texts that should not be learnt."""

from __future__ import annotations

import pytest

from sartor.data.finding.identifiers import Span
from sartor.data.finding.redact import Redaction, redacted
from sartor.types import Chat, Example, Message, Pair, Source, Text, ToolCall, Unpaired

SOURCE = Source(file="rows.jsonl", line=7)
SECRET = "quincunx"


def find(text: str) -> tuple[Span, ...]:
    """The secret word, wherever it stands."""
    places = [place for place in range(len(text)) if text.startswith(SECRET, place)]
    return tuple(Span(place, place + len(SECRET), "word") for place in places)


def redaction(action: str) -> Redaction:
    return Redaction(find, action, lambda kind, value: f"[{kind.upper()}]", "masked")


def talk() -> Chat:
    call = ToolCall(name="send", arguments={"to": [SECRET, 3], "deep": {"x": f"a {SECRET}"}}, id="1")
    return Chat(
        source=SOURCE,
        messages=(
            Message(role="user", content=f"my {SECRET} and {SECRET}"),
            Message(role="assistant", content="ok", reasoning=f"{SECRET}?", tool_calls=(call,)),
        ),
    )


def test_masked_everywhere_with_an_entry_for_each_field() -> None:
    outcome = redaction("mask").of(talk())
    assert outcome.example is not None
    assert SECRET not in outcome.example.model_dump_json()
    assert {(entry.field, entry.detail) for entry in outcome.entries} == {
        ("messages[0].content", "masked: 2 word"),
        ("messages[1].reasoning", "masked: 1 word"),
        ("messages[1].tool_calls[0].arguments.to[0]", "masked: 1 word"),
        ("messages[1].tool_calls[0].arguments.deep.x", "masked: 1 word"),
    }
    assert {(entry.action, entry.reason, entry.line) for entry in outcome.entries} == {("changed", "word", 7)}


def test_told_and_left_alone() -> None:
    outcome = redaction("report").of(talk())
    assert outcome.example == talk()
    assert {entry.action for entry in outcome.entries} == {"flagged"}


def test_dropped_once() -> None:
    outcome = redaction("drop").of(talk())
    assert outcome.example is None
    assert [(entry.action, entry.detail) for entry in outcome.entries] == [("dropped", "found: 5 word")]


ASKED = (Message(role="user", content=f"say {SECRET}"),)
SAID = Message(role="assistant", content=SECRET)


@pytest.mark.parametrize(
    "example",
    [
        Text(source=SOURCE, text=f"a {SECRET}."),
        Pair(source=SOURCE, prompt=ASKED, chosen=SAID, rejected=SAID),
        Unpaired(source=SOURCE, prompt=ASKED, answer=SAID, good=True),
    ],
)
def test_every_kind_of_example(example: Example) -> None:
    outcome = redaction("mask").of(example)
    assert outcome.example is not None
    assert SECRET not in outcome.example.model_dump_json()
    assert outcome.example.source == SOURCE


def test_what_holds_none_goes_on_as_it_is() -> None:
    example = Text(source=SOURCE, text="nothing")
    assert redaction("drop").of(example).example is example


def test_spans_are_replaced_in_their_order() -> None:
    assert (
        redacted("a bb c", (Span(0, 1, "x"), Span(2, 4, "y")), lambda kind, value: f"<{kind}{len(value)}>")
        == "<x1> <y2> c"
    )
