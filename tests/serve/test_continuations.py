"""`POST /v1/completions` as the official client sees it."""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest

TEXT = "Hello, wörld 🙂!"


def test_running_text_is_gone_on_with(start: Any, scripted: Any) -> None:
    server = start(scripted())
    answer = server.client().completions.create(model="tickets", prompt="Once ", temperature=0.5, top_p=0.9, seed=4)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-") and answer.model == "tickets"
    prompt, sampling, adapter = server.engine.asked[0]
    assert (bytes(prompt), adapter, server.renderer.seen) == (b"Once ", "tickets", [])
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 4)
    assert sampling.stop_ids == server.renderer.stop_ids


def test_several_prompts_in_one_batch_each_with_its_choice(start: Any, scripted: Any) -> None:
    server = start(scripted())
    answer = server.client().completions.create(model="base", prompt=["a", "bc"], max_tokens=5)
    assert [(each.index, each.text, each.finish_reason) for each in answer.choices] == [
        (0, "Hello", "length"),
        (1, "Hello", "length"),
    ]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 10, 13)
    assert server.desk.find("base").turns._num_requests == 0


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_the_same_text(server: Any, usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    *parts, last = list(server.client().completions.create(model="base", prompt="a", stream=True, **options))
    if usage:
        assert last.choices == [] and (last.usage.prompt_tokens, last.usage.completion_tokens) == (1, 20)
        assert all(part.usage is None for part in parts)
    else:
        parts.append(last)
        assert all("usage" not in part.model_dump(exclude_unset=True) for part in parts)
    assert "".join(part.choices[0].text for part in parts) == TEXT
    assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + ["stop"]


def test_stop_strings(server: Any) -> None:
    answer = server.client().completions.create(model="base", prompt="a", stop=[", w"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hello", "stop")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"echo": True}, "echo"),
        ({"logprobs": 1}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2}, "n"),
        ({"prompt": ["a", "b"], "stream": True}, "stream"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"prompt": "refuse me"}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"extra_body": {"messages": []}}, "messages"),
    ],
)
def test_what_cannot_be_answered_is_refused(server: Any, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        server.client().completions.create(**{"model": "base", "prompt": "a", **asked})
    assert refused.value.param == param
    assert server.desk.find("base").turns._num_requests == 0


def test_if_one_prompt_is_refused_the_others_leave(start: Any, scripted: Any, eventually: Any) -> None:
    server = start(scripted(gate=threading.Semaphore(1), script="Hello " * 500))
    with pytest.raises(openai.BadRequestError):
        server.client().completions.create(model="base", prompt=["a", "refuse me", "b"])
    server.engine.gate.release(3)
    eventually(lambda: not server.engine.requests)
    assert server.desk.find("base").turns._num_requests == 0
