"""What a request may hold: bounds, fields that are ignored, fields that are refused, and the name of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.serve.errors import ApiError
from sartor.serve.wire import MAX_MESSAGES, MAX_NEW_TOKENS, MAX_TOOLS, SEED_LIMIT, ChatRequest, TextRequest, parse

TOOL = {"type": "function", "function": {"name": "add"}}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}


def request(**fields: Any) -> ChatRequest:
    return parse(json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode())


def refusal(**fields: Any) -> dict[str, Any]:
    with pytest.raises(ApiError) as refused:
        request(**fields)
    assert refused.value.status == 400
    return dict(refused.value.body["error"])


@pytest.mark.parametrize(
    ("field", "lowest", "highest", "step"),
    [
        ("temperature", 0, 2, 0.001),
        ("top_p", 0, 1, 0.001),
        ("max_tokens", 1, MAX_NEW_TOKENS, 1),
        ("max_completion_tokens", 1, MAX_NEW_TOKENS, 1),
        ("seed", -SEED_LIMIT, SEED_LIMIT - 1, 1),
    ],
)
def test_numbers_are_bounded(field: str, lowest: float, highest: float, step: float) -> None:
    for value in (lowest, highest, None):
        assert vars(request(**{field: value}))[field] == value
    for value in (lowest - step, highest + step, "1", True, [1], {}, float("nan"), float("inf"), 10**400):
        error = refusal(**{field: value})
        assert error["param"] == field or "JSON" in error["message"]
        assert error["code"] in ("invalid_type", "invalid_value", "invalid_json")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "wieght": 1}]}, "messages[0].wieght"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "reasoning": "y"}]}, "messages[0].reasoning_content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "c"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "content": "x", "refusal": "no"}]}, "messages[0].refusal"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"tools": [TOOL] * (MAX_TOOLS + 1)}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function", "function": {"name": ""}}]}, "tools[1].function.name"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": [3]}, "stop[0]"),
        ({"stop": 3}, "stop"),
        ({"stop": "x" * 1001}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens"),
        ({"top_k": 40}, "top_k"),
        ({"x" * 5000: 1}, "x" * 200 + "…"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1000


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", "", '{"a": NaN}', "[" * 100_000])
def test_arguments_of_a_call_are_a_json_object(arguments: str) -> None:
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    error = refusal(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert error["param"] == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("field", "neutral", "meant"),
    [
        ("n", 1, 2),
        ("n", 1, True),
        ("frequency_penalty", 0.0, 0.5),
        ("presence_penalty", 0, -1),
        ("logit_bias", {}, {"50256": -100}),
        ("logprobs", False, True),
        ("top_logprobs", 0, 5),
        ("response_format", {"type": "text"}, {"type": "json_schema", "json_schema": {"name": "x"}}),
        ("response_format", None, {"type": "json_object"}),
        ("tool_choice", "auto", "required"),
        ("tool_choice", "none", {"type": "function", "function": {"name": "add"}}),
        ("parallel_tool_calls", True, False),
        ("modalities", ["text"], ["text", "audio"]),
        ("audio", None, {"voice": "alloy", "format": "wav"}),
        ("functions", None, [{"name": "add"}]),
        ("web_search_options", None, {}),
        ("moderation", None, {}),
    ],
)
def test_what_would_change_the_answer_is_refused_unless_it_asks_for_nothing(
    field: str, neutral: Any, meant: Any
) -> None:
    request(**{field: neutral})
    request(**{field: None})
    error = refusal(**{field: meant})
    assert (error["param"], error["code"]) == (field, "unsupported_value")
    assert "not supported" in error["message"]


def test_what_changes_nothing_is_accepted() -> None:
    names = ["metadata", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"]
    names += ["reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity"]
    for name in names:
        request(**{name: {"anything": 1}})
        request(**{name: "x"})


def test_every_field_of_openai_is_known() -> None:
    """The fields of `CreateChatCompletionRequest` in OpenAI's specification 2.3.0."""
    fields = """metadata top_logprobs temperature top_p user safety_identifier prompt_cache_key prompt_cache_retention
    prompt_cache_options messages model service_tier modalities verbosity reasoning_effort max_completion_tokens
    frequency_penalty presence_penalty web_search_options response_format audio store moderation stream stop
    logit_bias logprobs max_tokens n prediction seed stream_options tools tool_choice parallel_tool_calls
    function_call functions"""
    assert set(fields.split()) == set(ChatRequest.model_fields)


def test_every_field_of_openais_legacy_completions_is_known() -> None:
    """The fields of `CreateCompletionRequest` in OpenAI's specification 2.3.0."""
    fields = """model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop
    stream stream_options suffix temperature top_p user"""
    assert set(fields.split()) == set(TextRequest.model_fields)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b"[" * 1_000_000, "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b"{}", "missing_required_parameter"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(body)
    assert refused.value.body["error"]["code"] == code


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), json_values, max_size=4))
def test_no_body_does_more_than_be_refused(fields: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    try:
        parse(json.dumps(body).encode())
    except ApiError as error:
        assert error.status == 400 and error.body["error"]["message"]


def test_malformed_bodies_over_http(server: Any) -> None:
    with server.http() as client:
        headers = {"Content-Type": "application/json"}
        reply = client.post("/v1/chat/completions", content=b'{"model": "base",', headers=headers)
        assert reply.status_code == 400 and reply.json()["error"]["code"] == "invalid_json"
        reply = client.post("/v1/chat/completions", json={"model": "base", "messages": [], "n": 3})
        assert reply.status_code == 400 and reply.json()["error"]["param"] == "n"
