"""The server as the official client sees it."""

from __future__ import annotations

import json
import threading
from typing import Any

import openai
import pytest

from sartor.errors import UserError

ASK: Any = [{"role": "user", "content": "hi"}]


def test_lists_base_and_adapters(server: Any) -> None:
    listed = server.client().models.list().data
    assert [model.id for model in listed] == ["base", "tickets"]
    assert server.client().models.retrieve("tickets").id == "tickets"
    assert listed[1].model_dump()["parent"] == "base"


@pytest.mark.parametrize(("model", "text"), [("base", "Hello, wörld 🙂!"), ("tickets", "tickets: Hello, wörld 🙂!")])
def test_chat_answers_with_usage(server: Any, model: str, text: str) -> None:
    answer = server.client().chat.completions.create(model=model, messages=ASK)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model and answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    num_tokens = len(text.encode()) + 1  # the stop token is computed too
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, num_tokens)
    assert answer.usage.total_tokens == 2 + num_tokens


def test_stream_is_the_same_text_in_whole_characters(server: Any) -> None:
    chunks = list(server.client().chat.completions.create(model="base", messages=ASK, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == "Hello, wörld 🙂!"
    assert "🙂" in texts and "ö" in texts and not any("\ufffd" in text for text in texts)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all("usage" not in chunk.model_dump(exclude_unset=True) for chunk in chunks)


def test_stream_with_usage_ends_with_it(server: Any) -> None:
    options: Any = {"include_usage": True}
    stream = server.client().chat.completions.create(model="base", messages=ASK, stream=True, stream_options=options)
    *body, last = list(stream)
    assert all(chunk.usage is None for chunk in body)
    assert last.choices == [] and (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 20)


def test_the_first_chunk_leaves_before_the_second_token_is_computed(start: Any, scripted: Any) -> None:
    gate = threading.Semaphore(1)
    server = start(scripted(gate=gate))
    stream = iter(server.client().chat.completions.create(model="base", messages=ASK, stream=True))
    for number, character in enumerate("Hell", start=1):
        assert next(stream).choices[0].delta.content == character
        assert len(server.engine.computed) == number
        gate.release()
    gate.release(100)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "o, wörld 🙂!"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [(", w", "Hello"), (["zzz", "rld"], "Hello, wö"), ("🙂", "Hello, wörld "), ("H", ""), ("!?", "Hello, wörld 🙂!")],
)
def test_stop_strings_never_leak(server: Any, stop: Any, text: str, stream: bool) -> None:
    reply = server.client().chat.completions.create(model="base", messages=ASK, stop=stop, stream=stream)
    if stream:
        chunks = list(reply)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (text, "stop")


def test_a_stop_string_ends_generation_at_once(start: Any, scripted: Any) -> None:
    server = start(scripted())
    reply = server.client().chat.completions.create(model="base", messages=ASK, stop="ell")
    assert bytes(server.engine.computed) == b"Hell" and reply.usage.completion_tokens == 4
    assert server.engine.num_cancelled == 1 and not server.engine.busy


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_limits_end_with_length(server: Any, field: str) -> None:
    reply = server.client().chat.completions.create(model="base", messages=ASK, **{field: 5})
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Hello", "length")
    assert reply.usage.completion_tokens == 5
    halved = server.client().chat.completions.create(model="base", messages=ASK, **{field: 9})  # in the middle of "ö"
    assert halved.choices[0].message.content == "Hello, w\ufffd"


def test_an_answer_has_what_is_left_of_the_context_and_no_more(start: Any, scripted: Any) -> None:
    server = start(scripted(context=7))
    for fields in ({}, {"max_tokens": 100_000}):
        reply = server.client().chat.completions.create(model="base", messages=ASK, **fields)
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Hello", "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [7, 8, 5000])
def test_a_prompt_without_room_for_an_answer_is_refused(start: Any, scripted: Any, size: int, stream: bool) -> None:
    server = start(scripted(context=7))
    messages: Any = [{"role": "user", "content": "x" * size}]
    with pytest.raises(openai.BadRequestError) as refused:
        server.client().chat.completions.create(model="base", messages=messages, stream=stream)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    assert server.engine.asked == []


def test_defaults_are_greedy_and_capped(start: Any, scripted: Any) -> None:
    server = start(scripted())
    server.client().chat.completions.create(model="tickets", messages=ASK)
    prompt, sampling, adapter = server.engine.asked[0]
    assert (bytes(prompt), adapter) == (b"hi", "tickets")
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p) == (1024, 0.0, 1.0)
    assert sampling.stop_ids == server.renderer.stop_ids


def test_a_seed_makes_sampling_repeatable(server: Any) -> None:
    def sample(seed: int | None) -> str:
        fields: Any = {} if seed is None else {"seed": seed}
        reply = server.client().chat.completions.create(model="base", messages=ASK, temperature=1, **fields)
        return str(reply.choices[0].message.content)

    assert sample(3) == sample(3) and sample(-4) == sample(-4)
    assert sample(3) != sample(4)
    assert len({sample(None) for _ in range(4)}) > 1


def test_sampling_settings_reach_the_engine(start: Any, scripted: Any) -> None:
    server = start(scripted())
    server.client().chat.completions.create(model="base", messages=ASK, temperature=0.7, top_p=0.9, seed=11)
    server.client().chat.completions.create(model="base", messages=ASK, temperature=0.7, top_p=0)
    first, second = (sampling for _, sampling, _ in server.engine.asked)
    assert (first.temperature, first.top_p, first.seed) == (0.7, 0.9, 11)
    assert (second.temperature, second.top_p) == (0.0, 1.0)  # a nucleus of nothing is the likeliest token


def test_messages_and_tools_arrive_as_training_knows_them(start: Any, scripted: Any) -> None:
    server = start(scripted())
    tools: Any = [{"function": {"parameters": {"type": "object"}, "name": "math.add"}, "type": "function"}]
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "1 + 1?", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Add.",
            "refusal": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "math.add", "arguments": '{"b": 1, "a": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    server.client().chat.completions.create(model="base", messages=messages, tools=tools)
    server.client().chat.completions.create(model="base", messages=messages, tools=tools, tool_choice="none")
    (seen, shown), (_, hidden) = server.renderer.seen
    assert [message.role for message in seen] == ["developer", "user", "assistant", "tool"]
    assert (seen[0].content, seen[1].name, seen[2].content, seen[2].reasoning) == ("Be brief.", "ann", "", "Add.")
    call = seen[2].tool_calls[0]
    assert (call.name, call.id, json.dumps(call.arguments)) == ("math.add", "c1", '{"b": 1, "a": 1}')
    assert seen[3].tool_call_id == "c1"
    assert json.dumps(shown) == json.dumps(tools)  # with the keys in the order that they came in
    assert hidden == ()


def test_an_unknown_model_lists_the_known(server: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        server.client().chat.completions.create(model="gpt-4", messages=ASK)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert "base, tickets" in missing.value.message
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("gpt-4")


def test_a_wrong_key_is_refused(server: Any) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        server.client(key="sk-wrong").chat.completions.create(model="base", messages=ASK)
    assert refused.value.code == "invalid_api_key"


def test_what_the_template_refuses_is_a_bad_request(server: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        server.client().chat.completions.create(model="base", messages=[{"role": "user", "content": "refuse me"}])
    assert refused.value.param == "messages"
    assert "refuses this conversation. send other messages" in refused.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_a_bad_request(start: Any, scripted: Any, stream: bool) -> None:
    class Encoder(scripted):  # type: ignore[misc]
        def submit(self, *_: Any) -> int:
            raise UserError("this model gives embeddings, no answers", hint="ask for them: POST /v1/embeddings")

    server = start(Encoder())
    with pytest.raises(openai.BadRequestError, match=r"no answers\. ask for them") as refused:
        server.client().chat.completions.create(model="base", messages=ASK, stream=stream)
    assert (refused.value.type, refused.value.code, refused.value.param) == ("invalid_request_error", None, None)
    assert server.desk.find("base").turns._num_requests == 0


@pytest.mark.parametrize(
    ("text", "fails_at", "stream"),
    [("break me", None, False), ("hi", 0, False), ("hi", 3, False), ("break me", None, True), ("hi", 0, True)],
)
def test_what_breaks_on_our_side_tells_a_number_and_nothing_else(
    start: Any, scripted: Any, caplog: pytest.LogCaptureFixture, text: str, fails_at: int | None, stream: bool
) -> None:
    server = start(scripted(fails_at=fails_at))
    messages: Any = [{"role": "user", "content": text}]
    with pytest.raises(openai.InternalServerError) as broken:
        server.client().chat.completions.create(model="base", messages=messages, stream=stream)
    assert broken.value.status_code == 500 and broken.value.response.headers["x-should-retry"] == "false"
    assert "secret" not in broken.value.message and broken.value.code == "internal_error"
    assert broken.value.request_id in broken.value.message and broken.value.request_id in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_stream_that_breaks_says_so(
    start: Any, scripted: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(scripted(fails_at=2))
    stream = iter(server.client().chat.completions.create(model="base", messages=ASK, stream=True))
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["H", "e"]
    with pytest.raises(openai.APIError) as broken:
        list(stream)
    assert "secret" not in broken.value.message and "req_" in broken.value.message
    eventually(lambda: "ZeroDivisionError" in caplog.text)
    server.engine.fails_at = None
    again = server.client().chat.completions.create(model="base", messages=ASK)
    assert again.choices[0].message.content == "Hello, wörld 🙂!"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("ways", "logged"), [("refuses", "cannot be answered"), ("drops", "dropped request 0")])
def test_what_the_machine_failed_at_may_be_asked_again(
    start: Any, scripted: Any, caplog: pytest.LogCaptureFixture, ways: str, logged: str, stream: bool
) -> None:
    server = start(scripted(**{ways: {0, 1}}))
    with pytest.raises(openai.InternalServerError) as failed:
        server.client().chat.completions.create(model="base", messages=ASK, stream=stream)
    assert (failed.value.status_code, failed.value.code) == (503, "unavailable")
    assert failed.value.request_id in failed.value.message and logged not in failed.value.message
    assert logged in caplog.text and failed.value.request_id in caplog.text
    patient = server.client().with_options(max_retries=1)  # its second try is the third request
    reply = patient.chat.completions.create(model="base", messages=ASK, stream=stream)
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in reply) if stream else reply.choices[0].message.content
    )
    assert text == "Hello, wörld 🙂!"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_of_one_request_is_its_senders(
    start: Any, scripted: Any, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    server = start(scripted(refuses={0}, refusal=UserError("it refuses the request", hint="shorten the prompt")))
    with pytest.raises(openai.BadRequestError, match=r"it refuses the request\. shorten the prompt"):
        server.client().chat.completions.create(model="base", messages=ASK, stream=stream)
    assert caplog.text == ""


def test_a_refusal_within_a_stream_is_no_incident(start: Any, scripted: Any, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Semaphore(1)
    server = start(scripted(gate=gate, refusal=UserError("it refuses the request", hint="shorten the prompt")))
    stream = iter(server.client().chat.completions.create(model="base", messages=ASK, stream=True))
    assert next(stream).choices[0].delta.content == "H"
    server.engine.refuses.add(0)
    gate.release(2)
    with pytest.raises(openai.APIError, match="shorten the prompt") as refused:
        list(stream)
    assert refused.value.type == "invalid_request_error" and caplog.text == ""


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_closes_asks_for_another_try(start: Any, scripted: Any, stream: bool) -> None:
    server = start(scripted())
    server.desk.close()
    with pytest.raises(openai.InternalServerError, match="when it has started anew") as closed:
        server.client().chat.completions.create(model="base", messages=ASK, stream=stream)
    assert (closed.value.status_code, closed.value.code) == (503, "closing")
    assert "x-should-retry" not in closed.value.response.headers
