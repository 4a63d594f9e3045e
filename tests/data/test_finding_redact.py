"""What is done with parts of texts that should not be learnt."""

from __future__ import annotations

from typing import Any

import pytest

from sartor.data.clean import Context, pii
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


ADDRESS, CARD = "jane.doe@acme-corp.com", 4111111111111111


def calling(arguments: dict[str, Any], *tools: dict[str, Any], name: str = "") -> Chat:
    """A talk that ends on a call of `send`."""
    call = ToolCall(name="send", arguments=arguments)
    asked = Message(role="user", content="Send it.", name=name)
    return Chat(source=SOURCE, messages=(asked, Message(role="assistant", tool_calls=(call,))), tools=tools)


def sending(**schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "send", **schema}}


def cleaned(example: Example, action: str = "mask") -> tuple[Example | None, dict[str, str]]:
    """What `pii` makes of an example, and what the ledger says by field. Nothing found stands there."""
    (outcome,) = pii.clean([example], pii.Config.model_validate({"action": action}), Context())
    for entry in outcome.entries:
        assert ADDRESS not in entry.model_dump_json()
        assert str(CARD) not in entry.model_dump_json()
    return outcome.example, {entry.field: f"{entry.action}: {entry.detail}" for entry in outcome.entries}


CALL = "messages[1].tool_calls[0].arguments"
HIDDEN = [
    (calling({}, name=ADDRESS), "messages[0].name", calling({}, name="[E_MAIL]")),
    (calling({"card": CARD}), f"{CALL}.card", calling({"card": "[CARD]"})),
    (calling({"card": [float(CARD)]}), f"{CALL}.card[0]", calling({"card": ["[CARD]"]})),
    (calling({ADDRESS: "cc", "n": 3}), CALL, calling({"[E_MAIL]": "cc", "n": 3})),
    (calling({"to": {ADDRESS: 1, "bob.roe@acme-corp.com": 2, "[E_MAIL]": 3}}), f"{CALL}.to",
     calling({"to": {"[E_MAIL] 2": 1, "[E_MAIL] 3": 2, "[E_MAIL]": 3}})),
    (calling({}, sending(description=f"Mail {ADDRESS}")), "tools[0].function.description",
     calling({}, sending(description="Mail [E_MAIL]"))),
    (calling({}, sending(parameters={"properties": {"to": {"enum": [ADDRESS], "default": CARD}}})),
     "tools[0].function.parameters.properties.to.enum[0]",
     calling({}, sending(parameters={"properties": {"to": {"enum": ["[E_MAIL]"], "default": "[CARD]"}}}))),
]  # fmt: skip


@pytest.mark.parametrize(("example", "field", "masked"), HIDDEN)
def test_names_numbers_keys_and_tools_are_looked_at(example: Chat, field: str, masked: Chat) -> None:
    found, told = cleaned(example)
    assert found == masked
    assert field in told
    assert all(line.startswith("changed: masked") for line in told.values())
    assert cleaned(masked) == (masked, {})
    assert cleaned(example) == (found, told)
    assert cleaned(example, "drop")[0] is None
    found, told = cleaned(example, "report")
    assert found == example
    assert field in told
    stood_in, _ = cleaned(example, "pseudonymise")
    assert stood_in is not None
    assert ADDRESS not in stood_in.model_dump_json()
    assert str(CARD) not in stood_in.model_dump_json()


def test_what_something_is_called_is_told_and_stays() -> None:
    schema = {"properties": {ADDRESS: {"type": "string"}}, "required": [ADDRESS], "title": f"{ADDRESS}!"}
    found, told = cleaned(calling({ADDRESS: ADDRESS}, sending(parameters=schema)))
    left = {"properties": {ADDRESS: {"type": "string"}}, "required": [ADDRESS], "title": "[E_MAIL]!"}
    assert found == calling({ADDRESS: "[E_MAIL]"}, sending(parameters=left))
    assert told == {
        CALL: "flagged: found: 1 e_mail",
        f"{CALL}.[E_MAIL]": "changed: masked: 1 e_mail",
        "tools[0].function.parameters.properties": "flagged: found: 1 e_mail",
        "tools[0].function.parameters.required[0]": "flagged: found: 1 e_mail",
        "tools[0].function.parameters.title": "changed: masked: 1 e_mail",
    }


def test_a_tool_that_is_called_so_keeps_its_name_everywhere() -> None:
    call = ToolCall(name=f"call_{SECRET}", arguments={"who": SECRET})
    turns = (
        Message(role="user", content="hi"),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", name=call.name),
        Message(role="assistant", content="ok"),
    )
    example = Chat(source=SOURCE, messages=turns, tools=({"type": "function", "function": {"name": call.name}},))
    outcome = redaction("mask").of(example)
    assert isinstance(outcome.example, Chat)
    assert outcome.example.tools == example.tools
    assert outcome.example.messages[1].tool_calls == (call.model_copy(update={"arguments": {"who": "[WORD]"}}),)
    assert [entry.action for entry in outcome.entries] == ["flagged", "changed", "flagged", "flagged"]


def test_short_numbers_are_no_texts_and_a_stand_in_for_a_number_is_one() -> None:
    values = {"id": 1234, "ok": True, "share": 0.25, "none": None, "seen": 1700000000}
    assert cleaned(calling(values)) == (calling(values), {})
    found, _ = cleaned(calling({"card": CARD}), "pseudonymise")
    assert isinstance(found, Chat)
    card = found.messages[1].tool_calls[0].arguments["card"]
    assert isinstance(card, int)
    assert str(card)[:6] == "411111"
    assert card != CARD


def test_what_holds_none_goes_on_as_it_is() -> None:
    example = Text(source=SOURCE, text="nothing")
    assert redaction("drop").of(example).example is example


def test_spans_are_replaced_in_their_order() -> None:
    assert (
        redacted("a bb c", (Span(0, 1, "x"), Span(2, 4, "y")), lambda kind, value: f"<{kind}{len(value)}>")
        == "<x1> <y2> c"
    )
