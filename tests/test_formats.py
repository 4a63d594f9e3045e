"""What each format makes of a row, and what it says of a bad one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sartor import formats
from sartor.errors import DataError, FieldError, RecipeError, Where
from sartor.formats import (
    alpaca,
    chat,
    completion,
    example,
    fields,
    oasst,
    preference,
    sharegpt,
    steps,
    strict,
    text,
    unpaired,
)
from sartor.types import Chat, Pair, Source, ToolCall

SOURCE = Source(file="rows.jsonl", line=3)
USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOL = {"role": "tool", "tool_call_id": "a", "content": "42"}


def parsed(form: Any, row: dict[str, Any]) -> Chat:
    made = form.parse(row, SOURCE)
    assert made.changes == ()
    assert isinstance(made.example, Chat)
    return made.example


def said(example: Chat) -> list[tuple[str, str, float]]:
    return [(message.role, message.content, message.weight) for message in example.messages]


def refusal(form: Any, row: dict[str, Any]) -> FieldError:
    with pytest.raises(FieldError) as caught:
        form.parse(row, SOURCE)
    return caught.value


def refused(*messages: Any) -> FieldError:
    return refusal(chat, {"messages": list(messages)})


# --- a system prompt of the row's own ---

HUMAN = {"from": "human", "value": "hi"}
GPT = {"from": "gpt", "value": "hello"}
BETTER, WORSE = {"role": "assistant", "content": "better"}, {"role": "assistant", "content": "worse"}

#: Rows of all formats whose rows may have a `system` beside the turns.
UNDER_SYSTEM: list[tuple[Any, dict[str, Any]]] = [
    (alpaca, {"instruction": "hi", "output": "hello"}),
    (chat, {"messages": [USER, ASSISTANT]}),
    (completion, {"prompt": "hi", "completion": "hello"}),
    (completion, {"prompt": [USER], "completion": [ASSISTANT]}),
    (preference, {"prompt": "hi", "chosen": "better", "rejected": "worse"}),
    (preference, {"prompt": [USER], "chosen": [USER, BETTER], "rejected": [USER, WORSE]}),
    (preference, {"messages": [USER], "chosen": BETTER, "rejected": WORSE}),
    (preference, {"conversations": [HUMAN], "chosen": BETTER, "rejected": WORSE}),
    (preference, {"chosen": [USER, BETTER], "rejected": [USER, WORSE]}),
    (preference, {"chosen": "\n\nHuman: hi\n\nAssistant: better", "rejected": "\n\nHuman: hi\n\nAssistant: worse"}),
    (sharegpt, {"conversations": [HUMAN, GPT]}),
    (steps, {"question": "hi", "answer": "hello"}),
    (unpaired, {"prompt": "hi", "completion": "hello", "label": True}),
    (unpaired, {"messages": [USER, ASSISTANT], "label": True}),
    (unpaired, {"conversations": [HUMAN, GPT], "label": True}),
    (unpaired, {"instruction": "hi", "output": "hello", "label": True}),
]


def prompt_of(form: Any, row: dict[str, Any]) -> list[tuple[str, str]]:
    made = form.parse(row, SOURCE)
    assert made.changes == ()
    return [(message.role, message.content) for message in made.example.prompt]


@pytest.mark.parametrize(("form", "row"), UNDER_SYSTEM)
def test_a_system_prompt_of_the_rows_own_comes_first(form: Any, row: dict[str, Any]):
    assert "system" in form.FIELDS
    assert prompt_of(form, row | {"system": "be kind"}) == [("system", "be kind"), ("user", "hi")]
    for nothing in ("", None):
        assert prompt_of(form, row | {"system": nothing}) == [("user", "hi")]
    assert refusal(form, row | {"system": ["be kind"]}).field == "system"


@pytest.mark.parametrize(
    ("form", "row"),
    [
        (chat, {"messages": [SYSTEM, USER, ASSISTANT]}),
        (completion, {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}),
        (preference, {"prompt": [SYSTEM, USER], "chosen": [BETTER], "rejected": [WORSE]}),
        (preference, {"chosen": [SYSTEM, USER, BETTER], "rejected": [SYSTEM, USER, WORSE]}),
        (sharegpt, {"conversations": [{"from": "system", "value": "be kind"}, HUMAN, GPT]}),
        (unpaired, {"messages": [SYSTEM, USER, ASSISTANT], "label": True}),
    ],
)
def test_two_system_prompts_are_refused_unless_they_are_the_same(form: Any, row: dict[str, Any]):
    assert refusal(form, row | {"system": "be brief"}).field == "system"
    assert prompt_of(form, row | {"system": "be kind"}) == [("system", "be kind"), ("user", "hi")]


@pytest.mark.parametrize("asked", [{"messages": [SYSTEM, USER]}, {"conversations": [USER], "system": "be kind"}])
def test_an_answer_may_say_the_question_again_without_the_system_prompt(asked: dict[str, Any]):
    pair = preference.parse(
        {**asked, "chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "no"}]}, SOURCE
    ).example
    assert isinstance(pair, Pair)
    assert [message.role for message in pair.prompt] == ["system", "user"]
    assert pair.chosen.content == "hello"


def test_a_system_prompt_answers_nothing():
    error = refusal(chat, {"system": "be kind", "messages": [USER]})
    assert (error.field, error.seen) == ("messages", "the roles system, user")
    assert refusal(preference, {"system": "be kind", "chosen": "a", "rejected": "b"}).field == "chosen"


# --- alpaca ---


def test_alpaca_joins_instruction_and_input():
    row = {"instruction": "Translate.", "input": "Hallo ", "output": " hello\n"}
    assert said(parsed(alpaca, row)) == [("user", "Translate.\nHallo ", 1), ("assistant", " hello\n", 1)]


@pytest.mark.parametrize("extra", [{}, {"input": ""}, {"input": None, "system": None, "history": None}])
def test_alpaca_needs_no_input(extra: dict[str, Any]):
    assert said(parsed(alpaca, {"instruction": "Go.", "output": "ok"} | extra))[0] == ("user", "Go.", 1)


def test_alpaca_history_comes_before_the_question():
    row = {"instruction": "q2", "output": "a2", "system": "s", "history": [["q0", "a0"], ["q1", "a1"]]}
    assert [content for _, content, _ in said(parsed(alpaca, row))] == ["s", "q0", "a0", "q1", "a1", "q2", "a2"]


@pytest.mark.parametrize(
    ("row", "field", "seen"),
    [
        ({"output": "a"}, "instruction", "the keys output"),
        ({"instruction": "q"}, "output", "the keys instruction"),
        ({"instruction": "q", "output": ""}, "output", "an empty text"),
        ({"instruction": "q", "output": " \n"}, "output", 'the text " \\n"'),
        ({"instruction": "q", "output": ["good", "bad"]}, "output", "a list of 2"),
        ({"instruction": "", "output": "a"}, "instruction", "an empty text"),
        ({"instruction": "q", "input": 3, "output": "a"}, "input", "the number 3"),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, "history[0]", "a list of 1"),
        ({"instruction": "q", "output": "a", "history": [["x", None]]}, "history[0][1]", "null"),
        ({"instruction": "q", "output": "a", "history": "x"}, "history", 'the text "x"'),
        ({"instruction": "q\0", "output": "a"}, "instruction", "a NUL as character 2"),
    ],
)
def test_alpaca_names_the_bad_field(row: dict[str, Any], field: str, seen: str):
    error = refusal(alpaca, row)
    assert (error.field, error.seen) == (field, seen)


# --- completion ---


def test_completion_keeps_white_space_exactly():
    row = {"prompt": "  2+2=\n", "completion": " 4\n\n"}
    assert said(parsed(completion, row)) == [("user", "  2+2=\n", 1), ("assistant", " 4\n\n", 1)]


def test_completion_of_messages_trains_the_completion_only():
    row = {"prompt": [SYSTEM, USER, ASSISTANT, USER], "completion": [{"role": "assistant", "content": "done"}]}
    weights = [(role, weight) for role, _, weight in said(parsed(completion, row))]
    assert weights == [("system", 1), ("user", 1), ("assistant", 0), ("user", 1), ("assistant", 1)]


def test_completion_reads_tools():
    row = {"prompt": [USER], "completion": [CALLS], "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert parsed(completion, row).tools == ({"type": "function", "function": {"name": "f"}},)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "q", "completion": ""}, "completion"),
        ({"prompt": "q", "completion": None}, "completion"),
        ({"prompt": " ", "completion": "a"}, "prompt"),
        ({"prompt": "q"}, "completion"),
        ({"prompt": "q", "completion": [ASSISTANT]}, "prompt"),
        ({"prompt": [USER], "completion": "a"}, "completion"),
        ({"prompt": [USER], "completion": [USER]}, "completion[0].role"),
        ({"prompt": [USER, ASSISTANT], "completion": [ASSISTANT]}, "completion[0].role"),
        ({"prompt": [USER, 3], "completion": [ASSISTANT]}, "prompt[1]"),
        ({"prompt": [], "completion": [ASSISTANT]}, "prompt"),
    ],
)
def test_completion_names_the_bad_field(row: dict[str, Any], field: str):
    assert refusal(completion, row).field == field


# --- text ---


def test_text_is_kept_exactly():
    assert text.parse({"text": "\t a \r\n"}, SOURCE).example.text == "\t a \r\n"


@pytest.mark.parametrize("value", [None, "", " ", 1, ["a"], "a\ud800"])
def test_bad_text_is_an_error(value: Any):
    assert refusal(text, {"text": value}).field == "text"


# --- chat: one message ---


def test_chat_reads_parts_tools_reasoning_and_weights():
    example = parsed(chat, chat.SAMPLE)
    assert [role for role, _, _ in said(example)] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.messages[1].content == "Will it rain in Rome?"
    thought = example.messages[2]
    assert thought.tool_calls == (ToolCall(name="forecast", arguments={"city": "Rome"}, id="call_1"),)
    assert (thought.reasoning, thought.content, thought.weight) == ("The forecast knows.", "", 0)
    assert example.messages[3].tool_call_id == "call_1"
    assert example.tools == tuple(chat.SAMPLE["tools"])


def test_chat_joins_text_parts_without_adding_anything():
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": " b"}]
    assert parsed(chat, {"messages": [USER | {"content": parts}, ASSISTANT]}).messages[0].content == "a  b"


def test_chat_reads_the_older_functions():
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": [1]}'}}
    answer = {"role": "function", "name": "f", "content": "42"}
    example = parsed(chat, {"messages": [USER, called, answer, ASSISTANT], "functions": [{"name": "f"}]})
    assert example.messages[1].tool_calls == (ToolCall(name="f", arguments={"x": [1]}),)
    assert (example.messages[2].role, example.messages[2].name) == ("tool", "f")
    assert example.tools == ({"type": "function", "function": {"name": "f"}},)


def test_chat_keeps_developer_and_ignores_what_logs_carry():
    logged = ASSISTANT | {"refusal": None, "annotations": [], "audio": None, "tool_calls": [], "weight": None}
    example = parsed(chat, {"messages": [{"role": "developer", "content": ""}, USER | {"timestamp": 3}, logged]})
    assert said(example) == [("developer", "", 1), ("user", "hi", 1), ("assistant", "hello", 1)]


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_arguments_are_a_json_string_or_an_object(arguments: Any):
    call = CALL | {"function": {"name": "f", "arguments": arguments}}
    assert parsed(chat, {"messages": [USER, CALLS | {"tool_calls": [call]}]}).messages[1].tool_calls[0].arguments == {
        "a": 1
    }


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (None, "messages[0]"),
        ("hi", "messages[0]"),
        ({"content": "hi"}, "messages[0].role"),
        ({"role": "human", "content": "hi"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": ""}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": ["hi"]}, "messages[0].content[0]"),
        ({"role": "user", "content": "a\0"}, "messages[0].content"),
        ({"role": "user", "content": "\udc00"}, "messages[0].content"),
        ({"role": "user", "content": "hi", "weight": 0.5}, "messages[0].weight"),
        ({"role": "user", "content": "hi", "weight": 2}, "messages[0].weight"),
        ({"role": "user", "content": "hi", "weight": -1}, "messages[0].weight"),
        ({"role": "user", "content": "hi", "weight": True}, "messages[0].weight"),
        ({"role": "user", "content": "hi", "weight": "1"}, "messages[0].weight"),
        ({"role": "user", "content": "hi", "name": 3}, "messages[0].name"),
        ({"role": "user", "content": "hi", "wieght": 0}, "messages[0].wieght"),
        ({"role": "user", "content": "hi", "tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"role": "user", "content": "hi", "tool_call_id": "a"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": "hi", "reasoning_content": "hm"}, "messages[0].reasoning_content"),
    ],
)
def test_chat_names_the_bad_field_of_a_message(message: Any, field: str):
    assert refused(message, ASSISTANT).field == field


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (3, ""),
        ({"id": "a"}, ".function"),
        (CALL | {"type": "code"}, ".type"),
        (CALL | {"id": 3}, ".id"),
        (CALL | {"function": {"arguments": "{}"}}, ".function.name"),
        (CALL | {"function": {"name": "", "arguments": "{}"}}, ".function.name"),
        (CALL | {"function": {"name": "f"}}, ".function.arguments"),
        (CALL | {"function": {"name": "f", "argument": "{}"}}, ".function.argument"),
        (CALL | {"function": {"name": "f", "arguments": ""}}, ".function.arguments"),
        (CALL | {"function": {"name": "f", "arguments": "[]"}}, ".function.arguments"),
        (CALL | {"function": {"name": "f", "arguments": '{"a": NaN}'}}, ".function.arguments"),
        (CALL | {"function": {"name": "f", "arguments": '{"a": 1, "a": 2}'}}, ".function.arguments"),
        (CALL | {"function": {"name": "f", "arguments": "[" * 100_000}}, ".function.arguments"),
        (CALL | {"function": {"name": "f", "arguments": '{"a": "\\ud800"}'}}, ".function.arguments.a"),
        (CALL | {"function": {"name": "f", "arguments": {"a": ["\0"]}}}, ".function.arguments.a[0]"),
    ],
)
def test_chat_names_the_bad_field_of_a_call(call: Any, field: str):
    assert refused(USER, CALLS | {"tool_calls": [call]}).field == f"messages[1].tool_calls[0]{field}"


def test_two_calls_need_two_ids():
    assert refused(USER, CALLS | {"tool_calls": [CALL, CALL]}).field == "messages[1].tool_calls[1].id"


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"tools": "f"}, "tools"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": 3}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"functions": [{}]}, "functions[0].name"),
        ({"functions": [{"name": "f", "x": "\0"}]}, "functions[0].x"),
        (
            {"functions": [{"name": "f"}], "tools": [{"type": "function", "function": {"name": "f"}}]},
            "functions",
        ),
    ],
)
def test_chat_names_the_bad_field_of_a_tool(extra: dict[str, Any], field: str):
    assert refusal(chat, {"messages": [USER, ASSISTANT]} | extra).field == field


# --- chat: the order of turns ---


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([USER, SYSTEM, ASSISTANT], "messages[1].role"),
        ([USER, ASSISTANT, ASSISTANT], "messages[2].role"),
        ([USER, TOOL, ASSISTANT], "messages[1].role"),
        ([USER, CALLS, TOOL, TOOL, ASSISTANT], "messages[3].role"),
        ([USER, CALLS, USER, TOOL, ASSISTANT], "messages[3].role"),
        ([USER, CALLS, TOOL | {"tool_call_id": "b"}, ASSISTANT], "messages[2].tool_call_id"),
        ([USER, ASSISTANT | {"content": ""}], "messages[1].content"),
        ([USER, ASSISTANT | {"content": None}], "messages[1].content"),
        ([USER, ASSISTANT | {"content": "", "reasoning_content": "hm"}], "messages[1].content"),
        ([ASSISTANT], "messages[0]"),
        ([USER], "messages"),
        ([SYSTEM, USER, USER], "messages"),
        ([], "messages"),
        (None, "messages"),
        ("hi", "messages"),
    ],
)
def test_turns_out_of_order_are_errors(messages: Any, field: str):
    assert refusal(chat, {"messages": messages}).field == field


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM, {"role": "developer", "content": "x"}, USER, ASSISTANT],
        [ASSISTANT, USER, ASSISTANT],
        [USER, USER, ASSISTANT],
        [USER, CALLS],
        [USER, CALLS | {"content": "Let me look."}, TOOL, ASSISTANT],
        [USER, CALLS, {"role": "tool", "content": ""}, ASSISTANT],
        [USER, CALLS | {"tool_calls": [CALL, CALL | {"id": "b"}]}, TOOL | {"tool_call_id": "b"}, TOOL, ASSISTANT],
    ],
)
def test_turns_in_order_are_kept(messages: list[Any]):
    assert len(parsed(chat, {"messages": messages}).messages) == len(messages)


def test_turns_after_the_last_answer_are_cut_and_told():
    made = chat.parse({"messages": [USER, ASSISTANT, USER, USER]}, SOURCE)
    assert [message.role for message in made.example.messages] == ["user", "assistant"]
    (change,) = made.changes
    assert (change.field, change.reason) == ("messages[2]", "cut_after_answer")
    assert "left out 2" in change.detail


# --- sharegpt ---

ASKS = {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}
COMES_BACK = {"from": "observation", "value": "42"}


def test_sharegpt_reads_calls_observations_and_bare_tools():
    example = parsed(sharegpt, sharegpt.SAMPLE)
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.messages[2].tool_calls == (ToolCall(name="forecast", arguments={"city": "Rome"}),)
    assert example.tools[0]["type"] == "function"
    assert example.tools[0]["function"]["name"] == "forecast"


@pytest.mark.parametrize("tools", [None, "", "[]", " ", []])
def test_sharegpt_needs_no_tools(tools: Any):
    assert parsed(sharegpt, {"conversations": [HUMAN, GPT], "tools": tools}).tools == ()


def test_sharegpt_reads_the_words_of_other_data_sets():
    said_so = [{"from": "User", "value": "a"}, {"from": "model", "value": "b", "weight": 0}]
    written = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    assert said(parsed(sharegpt, {"conversations": [*said_so, *written]})) == [
        ("user", "a", 1),
        ("assistant", "b", 0),
        ("user", "c", 1),
        ("assistant", "d", 1),
    ]


def test_several_calls_in_one_turn_are_one_turn():
    calls = ASKS | {"value": json.dumps([{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}])}
    example = parsed(sharegpt, {"conversations": [HUMAN, calls, COMES_BACK, COMES_BACK, GPT]})
    assert [call.name for call in example.messages[1].tool_calls] == ["f", "g"]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"conversations": None}, "conversations"),
        ({"conversations": []}, "conversations"),
        ({"conversations": [HUMAN]}, "conversations"),
        ({"conversations": [3, GPT]}, "conversations[0]"),
        ({"conversations": [{"from": "alien", "value": "x"}, GPT]}, "conversations[0].from"),
        ({"conversations": [{"from": "human"}, GPT]}, "conversations[0].value"),
        ({"conversations": [{"from": "human", "values": "x"}, GPT]}, "conversations[0].values"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": ""}]}, "conversations[1].value"),
        ({"conversations": [HUMAN, GPT, GPT]}, "conversations[2].role"),
        ({"conversations": [HUMAN, ASKS | {"value": "{"}]}, "conversations[1].value"),
        ({"conversations": [HUMAN, ASKS | {"value": "[]"}]}, "conversations[1].value"),
        ({"conversations": [HUMAN, ASKS | {"value": '[{"name": "f"}]'}]}, "conversations[1].value[0].arguments"),
        ({"conversations": [HUMAN, COMES_BACK, GPT]}, "conversations[1].role"),
        ({"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT], "system": "t"}, "system"),
        ({"conversations": [HUMAN, GPT], "tools": "{"}, "tools"),
        ({"conversations": [HUMAN, GPT], "tools": "3"}, "tools"),
        ({"conversations": [HUMAN, GPT], "tools": [{"name": ""}]}, "tools[0].function.name"),
    ],
)
def test_sharegpt_names_the_bad_field(row: dict[str, Any], field: str):
    assert refusal(sharegpt, row).field == field


# --- preference ---


def pair(row: dict[str, Any]) -> Pair:
    made = preference.parse(row, SOURCE)
    assert made.changes == ()
    assert isinstance(made.example, Pair)
    return made.example


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "better", "rejected": "worse"},
        {"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
        {"prompt": "hi", "chosen": [USER, BETTER], "rejected": [USER, WORSE]},
        {"chosen": [USER, BETTER], "rejected": [USER, WORSE]},
        {"chosen": "\n\nHuman: hi\n\nAssistant: better", "rejected": "\n\nHuman: hi\n\nAssistant: worse"},
        {
            "conversations": [HUMAN],
            "chosen": {"from": "gpt", "value": "better"},
            "rejected": {"from": "gpt", "value": "worse"},
        },
        {"messages": [USER], "chosen": BETTER, "rejected": WORSE},
        {"instruction": "hi", "input": "", "chosen": "better", "rejected": "worse"},
    ],
)
def test_preferences_come_in_many_shapes(row: dict[str, Any]):
    assert formats.sniff([row]) == "preference"
    made = pair(row)
    assert [message.content for message in made.prompt] == ["hi"]
    assert (made.chosen.content, made.rejected.content) == ("better", "worse")


def test_a_dialogue_of_anthropic_keeps_its_turns():
    head = "\n\nHuman: a\n\nAssistant: b\nc\n\nHuman: d\n\nAssistant:"
    made = pair({"chosen": head + " x", "rejected": head + " y"})
    assert [(message.role, message.content) for message in made.prompt] == [
        ("user", "a"),
        ("assistant", "b\nc"),
        ("user", "d"),
    ]
    assert (made.chosen.content, made.rejected.content) == ("x", "y")


def test_answers_of_several_turns_share_all_but_the_last():
    made = pair({"prompt": [USER], "chosen": [ASSISTANT, USER, BETTER], "rejected": [ASSISTANT, USER, WORSE]})
    assert [message.content for message in made.prompt] == ["hi", "hello", "hi"]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "q", "chosen": "a"}, "rejected"),
        ({"prompt": "q", "rejected": "a"}, "chosen"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "rejected"),
        ({"prompt": "q", "chosen": "", "rejected": "a"}, "chosen"),
        ({"prompt": "q", "chosen": 3, "rejected": "a"}, "chosen"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "chosen"),
        ({"chosen": "a", "rejected": "b"}, "chosen"),
        ({"prompt": [USER, ASSISTANT], "chosen": "a", "rejected": "b"}, "prompt[1]"),
        ({"prompt": "q", "messages": [USER], "chosen": "a", "rejected": "b"}, "messages"),
        ({"prompt": "q", "chosen": [USER], "rejected": "b"}, "chosen[0]"),
        ({"prompt": "q", "chosen": [], "rejected": "b"}, "chosen"),
        ({"chosen": [USER, BETTER], "rejected": [USER, ASSISTANT, USER, WORSE]}, "rejected"),
        ({"chosen": "\n\nHuman: hi\n\nAssistant:", "rejected": "x"}, "chosen"),
    ],
)
def test_preference_names_the_bad_field(row: dict[str, Any], field: str):
    assert refusal(preference, row).field == field


# --- unpaired ---


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "completion": "hello", "label": False},
        {"prompt": [USER], "completion": [ASSISTANT], "label": False},
        {"messages": [USER, ASSISTANT], "label": "False"},
        {"messages": [USER, ASSISTANT], "kto_tag": False},
        {"conversations": [HUMAN, GPT], "kto_tag": "false"},
        {"instruction": "hi", "output": "hello", "kto_tag": False},
    ],
)
def test_rated_answers_come_in_many_shapes(row: dict[str, Any]):
    assert formats.sniff([row]) == "unpaired"
    made = unpaired.parse(row, SOURCE).example
    assert ([message.content for message in made.prompt], made.answer.content, made.good) == (["hi"], "hello", False)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "q", "completion": "a"}, "label"),
        ({"prompt": "q", "completion": "a", "label": 1}, "label"),
        ({"prompt": "q", "completion": "a", "label": None}, "label"),
        ({"prompt": "q", "completion": "a", "label": True, "kto_tag": True}, "kto_tag"),
        ({"prompt": "q", "label": True}, "completion"),
        ({"prompt": "q", "completion": "", "label": True}, "completion"),
        ({"completion": "a", "label": True}, "completion"),
        ({"messages": [USER], "label": True}, "messages"),
        ({"messages": [USER, ASSISTANT], "prompt": "q", "label": True}, "messages"),
    ],
)
def test_unpaired_names_the_bad_field(row: dict[str, Any], field: str):
    assert refusal(unpaired, row).field == field


# --- oasst ---


def reply(text: str, *replies: dict[str, Any], role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"text": text, "role": role, "replies": list(replies), **more}


def test_the_best_replies_are_the_conversation_and_the_others_are_counted():
    worse = reply("worse", reply("what?", role="prompter"), rank=1)
    better = reply("better", reply("and?", reply("so."), reply("gone", deleted=True), role="prompter"), rank=0)
    made = oasst.parse({"prompt": reply("hi", worse, reply("unranked"), better, role="prompter")}, SOURCE)
    assert [message.content for message in made.example.messages] == ["hi", "better", "and?", "so."]
    (change,) = made.changes
    assert (change.reason, change.detail) == ("branches_left_out", "4 messages in other branches of the tree")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": "text"}, "prompt"),
        ({"prompt": reply("hi", role="human")}, "prompt.role"),
        ({"prompt": reply("hi", role="prompter")}, "prompt"),
        ({"prompt": reply("", role="prompter")}, "prompt.text"),
        ({"prompt": reply("hi", role="prompter") | {"replies": 3}}, "prompt.replies"),
        ({"prompt": reply("hi", reply("a", rank="x"), role="prompter")}, "prompt.replies[0].rank"),
        ({"prompt": reply("hi", reply("a"), 3, role="prompter")}, "prompt.replies[1]"),  # type: ignore[arg-type]
    ],
)
def test_oasst_names_the_bad_field(row: dict[str, Any], field: str):
    assert refusal(oasst, row).field == field


# --- steps ---


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "q", "answer": "one\n#### 3"}, "one\n#### 3"),
        ({"question": "q", "answer": "plain"}, "plain"),
        ({"problem": "q", "solution": "one", "answer": "3"}, "one\n#### 3"),
        ({"problem": "q", "solution": "one\n#### 3", "answer": 3}, "one\n#### 3"),
        ({"problem": "q", "solution": "one"}, "one"),
        ({"question": "q", "steps": ["one", "two"], "final_answer": 3}, "one\ntwo\n#### 3"),
    ],
)
def test_steps_end_with_the_final_answer(row: dict[str, Any], answer: str):
    assert said(parsed(steps, row)) == [("user", "q", 1), ("assistant", answer, 1)]


def test_the_context_stands_before_the_question():
    row = {"context": "Paris is in France. ", "question": "Where is Paris?", "answer": "France"}
    assert prompt_of(steps, row) == [("user", "Paris is in France. \nWhere is Paris?")]
    assert prompt_of(steps, row | {"context": None}) == [("user", "Where is Paris?")]
    assert refusal(steps, row | {"context": ["Paris"]}).field == "context"


def test_calculator_marks_are_taken_out_and_told():
    made = steps.parse({"question": "q", "answer": "48/2 = <<48/2=24>>24, a << b\n#### 24"}, SOURCE)
    assert made.example.target == "48/2 = 24, a << b\n#### 24"
    assert [(change.field, change.reason) for change in made.changes] == [("answer", "calculator_marks")]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"question": "q"}, "final_answer"),
        ({"question": "q", "answer": "<<1+1=2>>"}, "answer"),
        ({"question": "q", "answer": None}, "answer"),
        ({"question": "q", "answer": ["a"]}, "answer"),
        ({"question": "q", "problem": "p", "answer": "a"}, "problem"),
        ({"question": "q", "answer": "a", "final_answer": "b"}, "answer"),
        ({"question": "q", "steps": []}, "steps"),
        ({"question": "q", "steps": ["a", ""], "answer": "b"}, "steps[1]"),
        ({"question": "q", "steps": ["a"]}, "final_answer"),
        ({"answer": "a"}, "question"),
    ],
)
def test_steps_names_the_bad_field(row: dict[str, Any], field: str):
    assert refusal(steps, row).field == field


# --- our own examples ---


def test_prepared_examples_keep_their_source():
    for form in (chat, text, preference, unpaired):
        made = form.parse(form.SAMPLE, Source(file="first.jsonl", line=9, origin="a.pdf")).example
        assert example.parse(json.loads(made.model_dump_json()), SOURCE).example == made


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ({"kind": "poem"}, "kind"),
        ({"source": 3}, "source"),
        ({"messages": [USER]}, "messages"),
        ({"messages": [USER, ASSISTANT | {"weight": "nan"}]}, "messages.weight"),
        ({"messages": [USER, ASSISTANT | {"content": "a\0"}]}, "messages[1].content"),
        ({"messages": [USER, ASSISTANT, ASSISTANT]}, "messages.role"),
        ({"messages": [USER, ASSISTANT | {"content": 3}]}, "messages[1].content"),
        ({"strange": 1}, "strange"),
    ],
)
def test_a_damaged_example_names_the_bad_field(damage: dict[str, Any], field: str):
    assert refusal(example, example.SAMPLE | damage).field == field


# --- sniffing ---


def test_most_rows_decide():
    rows = [alpaca.SAMPLE] * 2 + [text.SAMPLE] + [{"noise": 1}] * 5
    assert formats.sniff(rows) == "alpaca"


def test_a_tie_is_refused():
    with pytest.raises(DataError, match="look like alpaca, and as many like text") as caught:
        formats.sniff([alpaca.SAMPLE, text.SAMPLE], where=Where("t.jsonl"))
    assert "data.format: alpaca" in caught.value.hint
    assert str(caught.value).startswith("t.jsonl")


def test_no_match_lists_keys_and_the_nearest_fields():
    with pytest.raises(DataError) as caught:
        formats.sniff([{"promt": "a", "answer": "b"}])
    assert "`promt`, `answer`" in str(caught.value)
    assert "`promt` looks like `prompt`" in caught.value.hint
    assert "chat reads messages, tools, functions" in caught.value.hint
    assert "{prompt: promt, completion: answer}" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "q", "completion": "a", "label": False}, "unpaired"),
        ({"messages": [USER, ASSISTANT], "label": True}, "unpaired"),
        ({"instruction": "q", "output": "a", "kto_tag": True}, "unpaired"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"conversations": [], "chosen": {}, "rejected": {}}, "preference"),
    ],
)
def test_rated_rows_are_taken_for_what_they_are(row: dict[str, Any], name: str):
    assert formats.sniff([row]) == name


@pytest.mark.parametrize("row", [{"text": "great film", "label": 1}, {"answer": "a", "label": True}])
def test_labelled_rows_are_not_imitated_unasked(row: dict[str, Any]):
    with pytest.raises(DataError) as caught:
        formats.sniff([row])
    assert "rate answers" in caught.value.hint


def test_the_rendered_copy_of_an_alpaca_row_does_not_confuse():
    assert formats.sniff([{"instruction": "q", "input": "", "output": "a", "text": "### q ### a"}]) == "alpaca"


def test_the_field_map_tells_the_format():
    assert formats.reading({"prompt", "completion"}) == ("completion", "unpaired")
    assert formats.reading({"instruction", "output", "history"}) == ("alpaca", "unpaired")
    assert formats.reading({"completion", "label"}) == ("unpaired",)
    assert set(formats.reading(())) >= {"alpaca", "chat", "completion", "text"}


@pytest.mark.parametrize(
    ("given", "match"), [({"promt"}, "has a field 'promt'"), ({"text", "output"}, "no one format")]
)
def test_a_field_map_that_fits_nothing_is_a_recipe_error(given: set[str], match: str):
    with pytest.raises(RecipeError, match=match):
        formats.reading(given)


# --- helpers ---


def test_what_is_seen_is_short_and_printable():
    shown = fields.seen("\x1b[31m\ud800" + "x" * 500)
    assert shown.isprintable()
    assert len(shown) < fields.SHOWN + 20
    assert fields.seen(10**5000) == "a whole number of 16610 bits"
    assert [fields.seen(value) for value in (None, True, [], {}, {"a": 1}, "")] == [
        "null",
        "true",
        "an empty list",
        "an empty object",
        "the keys a",
        "an empty text",
    ]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "syntax"),
        (b"{'a': 1}", "syntax"),
        (b'{"a": 1} x', "syntax"),
        (b'{"a": "\n"}', "syntax"),
        (b"", "syntax"),
        (b'{"a": "\xff"}', "encoding"),
        (b'{"a": "\xed\xa0\x80"}', "encoding"),
        (b"\xef\xbb\xbf{}", "encoding"),
        (b'{"a": {"b": 1, "b": 2}}', "duplicate_key"),
        (b"NaN", "not_a_number"),
        (b'{"a": -Infinity}', "not_a_number"),
        (b"1e999", "not_a_number"),
        (b"1" * 5000, "not_a_number"),
        (b"[" * 65 + b"]" * 65, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
    ],
)
def test_strict_json_has_a_word_for_each_refusal(raw: bytes, reason: str):
    with pytest.raises(strict.Malformed) as caught:
        strict.loads(raw)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", ['[]"{[', "a\\", '\\"[', "[" * 500])
def test_brackets_in_strings_are_not_nesting(value: str):
    rows = [[value, {"k" + value: value}]] * 100
    assert strict.loads(json.dumps(rows).encode()) == rows


def test_nesting_up_to_the_limit_is_read():
    assert strict.loads(b"[" * strict.DEPTH + b"]" * strict.DEPTH)
