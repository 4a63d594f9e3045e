"""The engine that drives vLLM, against a server that speaks as vLLM does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sartor.errors import MachineError, ModelError, SartorError, UserError
from sartor.generate.protocol import Failed, Sampling, Token
from sartor.generate.vllm import VllmEngine, open_engine, require_files

from ..vllm_fake import BASE, KEY, Counter, FakeVllm  # noqa: TID252 - the tests are no package to import by name

GREEDY = Sampling(max_new_tokens=5, stop_ids=frozenset({2}))
Open = Callable[..., VllmEngine]


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with FakeVllm(Counter()).running() as fake:
        yield fake


@pytest.fixture
def open_on(server: FakeVllm, tmp_path: Path) -> Iterator[Open]:
    """Opens an engine on the server, and closes it at the end."""
    opened = []

    def opening(**changes: Any) -> VllmEngine:
        facts: dict[str, Any] = {"adapters": {}, "url": server.url, "key": KEY, "patience": 120.0, **changes}
        opened.append(open_engine(tmp_path, **facts))
        return opened[-1]

    yield opening
    for engine in opened:
        engine.close()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    return folder


def ids_of(tokens: list[Token], row: int = 0) -> list[int]:
    return [token.id for token in tokens if token.row == row]


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_ids_go_in_and_come_out_and_nothing_is_left_to_the_server(server: FakeVllm, open_on: Open) -> None:
    sampling = Sampling(max_new_tokens=3, stop_ids=frozenset({7, 2}), temperature=0.7, top_p=0.9, seed=11)
    assert len(list(open_on().stream([[1, 50, 300]], sampling, None))) == 3
    assert server.asked == [
        {
            "model": BASE,
            "prompt": [1, 50, 300],
            "max_tokens": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 11,
            "stop_token_ids": [2, 7],
            "stream": True,
            "return_token_ids": True,
            "ignore_eos": True,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
    ]


def test_several_rows_each_with_its_own_tokens(open_on: Open) -> None:
    tokens = list(open_on().stream([[10], [20], [30]], GREEDY, None))
    assert [ids_of(tokens, row) for row in range(3)] == [
        [11, 12, 13, 14, 15],
        [21, 22, 23, 24, 25],
        [31, 32, 33, 34, 35],
    ]
    assert sorted(token.row for token in tokens if token.finish == "length") == [0, 1, 2]


def test_a_stop_token_ends_its_row_only(open_on: Open) -> None:
    tokens = list(open_on().stream([[10], [20]], Sampling(5, frozenset({12})), None))
    assert [(token.id, token.finish) for token in tokens if token.row == 0] == [(11, None), (12, "stop")]
    assert ids_of(tokens, 1) == [21, 22, 23, 24, 25]


def test_a_stop_token_that_only_the_reason_names_counts_too(server: FakeVllm, open_on: Open) -> None:
    engine = open_on()
    server.fault = "stop unsaid"
    for stop in (11, 12, 13):
        tokens = list(engine.stream([[10]], Sampling(5, frozenset({stop})), None))
        assert [token.id for token in tokens] == list(range(11, stop + 1))
        assert tokens[-1].finish == "stop"


def test_an_answer_ends_where_the_context_does(server: FakeVllm, open_on: Open) -> None:
    server.context = 8
    tokens = list(open_on().stream([[1, 2, 3, 4, 5, 6]], Sampling(50, frozenset()), None))
    assert [token.finish for token in tokens] == [None, "length"]
    assert server.asked[0]["max_tokens"] == 2


@pytest.mark.parametrize("address", ["{}", "{}/", "{}/v1", "{}/v1/"])
def test_the_address_may_come_from_the_environment(
    server: FakeVllm, open_on: Open, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("SARTOR_VLLM_URL", address.format(server.url))
    monkeypatch.setenv("SARTOR_VLLM_KEY", KEY)
    assert open_on(url="", key="").context == 512


# ---- adapters --------------------------------------------------------------------------------------------------------


def test_an_adapter_is_loaded_and_asked_by_name(server: FakeVllm, open_on: Open, adapter: Path) -> None:
    engine = open_on(adapters={"calls": adapter})
    assert engine.adapters == ("calls",)
    assert server.adapters == {"calls": str(adapter.resolve())}
    tokens = list(engine.stream([[10], [10]], GREEDY, (None, "calls")))
    assert [ids_of(tokens, row)[:2] for row in range(2)] == [[11, 12], [12, 14]]


def test_an_adapter_that_is_there_is_not_loaded_again(server: FakeVllm, open_on: Open, adapter: Path) -> None:
    server.adapters["calls"] = "/elsewhere/on/the/server/calls"
    assert open_on(adapters={"calls": adapter}).adapters == ("calls",)
    assert server.adapters["calls"] == "/elsewhere/on/the/server/calls"


def test_another_folder_under_the_same_name_is_refused(
    server: FakeVllm, open_on: Open, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    server.adapters["calls"] = str(other)
    with pytest.raises(UserError, match=f"'calls' is {other}, not {adapter}"):
        open_on(adapters={"calls": adapter})
    server.root = str(other)
    with pytest.raises(UserError, match=f"'tiny' is {other}"):
        open_on()


def test_an_adapter_that_we_loaded_is_taken_out_again_and_no_other(
    server: FakeVllm, open_on: Open, adapter: Path
) -> None:
    """Trained anew it has the same name and folder, and the server would answer with the old weights."""
    server.adapters["mails"] = "/on/the/server/mails"
    engine = open_on(adapters={"calls": adapter, "mails": adapter.with_name("mails")})
    assert server.adapters.keys() == {"calls", "mails"}
    engine.close()
    assert server.adapters.keys() == {"mails"}


def test_a_run_of_the_bases_name_is_not_answered_by_the_base(server: FakeVllm, open_on: Open, adapter: Path) -> None:
    with pytest.raises(UserError, match=f"'{server.base}' is the base model of the vLLM server") as caught:
        open_on(adapters={server.base: adapter})
    assert "--served-model-name" in caught.value.hint


@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
def test_settings_that_vllm_does_not_read_are_refused(tmp_path: Path, adapter: Path, setting: str) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, setting: {"down_proj": 64}}))
    with pytest.raises(ModelError, match=setting):
        require_files(tmp_path, {"calls": adapter})


def test_a_key_is_read_without_the_end_of_its_line_and_never_shown(server: FakeVllm, open_on: Open) -> None:
    assert open_on(key=f" {KEY}\r\n").adapters == ()
    for key in ("sk-…", "sk\x00"):
        with pytest.raises(UserError, match="SARTOR_VLLM_KEY has letters that no key has") as caught:
            open_on(key=key)
        assert key not in str(caught.value) + caught.value.hint


def test_where_loading_is_not_allowed_the_error_says_how(open_on: Open, tmp_path: Path, adapter: Path) -> None:
    with FakeVllm(Counter(), loads=False).running() as strict, pytest.raises(UserError, match="404") as caught:
        open_engine(tmp_path, {"calls": adapter}, url=strict.url, key=KEY)
    assert "--lora-modules" in caught.value.hint
    with pytest.raises(UserError, match="No adapter found"):
        open_on(adapters={"nowhere": tmp_path / "nowhere"})


def test_an_unknown_adapter_is_answered_with_the_nearest(open_on: Open, adapter: Path) -> None:
    engine = open_on(adapters={"calls": adapter})
    with pytest.raises(UserError, match="'cals'") as caught:
        engine.submit([1], GREEDY, "cals")
    assert "did you mean 'calls'" in caught.value.hint


# ---- leaving ---------------------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in the server's thread; the timeout of the tests ends it otherwise."""
    while not condition():
        pass


def test_who_cancels_leaves_the_server_and_the_others_go_on(server: FakeVllm, open_on: Open) -> None:
    server.pause = 0.01
    engine = open_on()
    first, second = (engine.submit([start], Sampling(400, frozenset()), None) for start in (10, 20))
    until(lambda: bool(engine.advance()))
    engine.cancel(first)
    engine.cancel(first)
    engine.cancel(999)
    until(lambda: server.closed == 1)
    assert list(engine.requests) == [second]
    seen: list[Token] = []
    while len(seen) < 5:
        seen += engine.advance()
    assert {token.row for token in seen} == {second}
    engine.cancel(second)
    until(lambda: server.closed == 2)
    assert engine.advance() == []


def test_a_closed_stream_closes_its_connections_even_before_the_first_token(server: FakeVllm, open_on: Open) -> None:
    server.pause = 0.2
    stream = open_on().stream([[10], [20]], Sampling(400, frozenset()), None)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    until(lambda: server.closed == 2)
    engine = open_on()
    handle = engine.submit([30], Sampling(400, frozenset()), None)
    until(lambda: len(server.asked) == 3)
    engine.cancel(handle)
    until(lambda: server.closed == 3)


def test_closing_ends_what_runs_and_twice_is_no_error(server: FakeVllm, open_on: Open) -> None:
    server.pause = 0.05
    engine = open_on()
    engine.submit([30], Sampling(400, frozenset()), None)
    until(lambda: len(server.asked) == 1)
    engine.close()
    engine.close()
    until(lambda: server.closed == 1)


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "says", "hint"),
    [
        ("garbage", MachineError, "no JSON: \"{'not': json\"", "0.10.2"),
        ("no object", MachineError, "no JSON object", "0.10.2"),
        ("no choice", MachineError, "without a choice", "0.10.2"),
        ("no ids", MachineError, "without token ids", "0.10.2"),
        ("bos", MachineError, "other tokens in the place of the prompt", "0.10.2"),
        ("error", MachineError, "EngineCore died", "log"),
        ("dropped", MachineError, "broke", "log"),
        ("broken off", MachineError, "broke off within an answer", "log"),
        ("own stop", MachineError, "ended an answer by itself, 2 tokens before", "--generation-config vllm"),
        ("busy", MachineError, "503: overloaded", "log"),
        ("too long", UserError, "maximum context length is 512", "shorten"),
    ],
)
def test_each_fault_is_an_error_with_a_way_out_and_the_engine_lives_on(
    server: FakeVllm, open_on: Open, fault: str, kind: type[SartorError], says: str, hint: str
) -> None:
    engine = open_on()
    server.fault = fault
    with pytest.raises(kind) as caught:
        list(engine.stream([[10]], GREEDY, None))
    assert says in caught.value.message
    assert hint in caught.value.hint
    assert KEY not in f"{caught.value.message} {caught.value.hint}"
    server.fault = ""
    assert ids_of(list(engine.stream([[10]], GREEDY, None))) == [11, 12, 13, 14, 15]


def test_one_refused_row_harms_no_other(server: FakeVllm, open_on: Open) -> None:
    engine = open_on()
    refused = engine.submit([10], GREEDY, None)
    server.context = 4  # from now on it is as if the server had another context than it said
    until(lambda: len(server.asked) == 1)
    server.context = 512
    answered = engine.submit([20], GREEDY, None)
    seen: list[Token] = []
    with pytest.raises(Failed) as caught:
        while True:
            seen += engine.advance()
    assert caught.value.row == refused
    assert isinstance(caught.value.error, UserError) and "maximum context length" in caught.value.error.message
    assert list(engine.requests) == [answered] or seen[-1].finish == "length"
    while engine.requests:
        seen += engine.advance()
    assert ids_of(seen, answered) == [21, 22, 23, 24, 25]


def test_a_step_that_has_to_wait_comes_back_without_tokens(server: FakeVllm, open_on: Open) -> None:
    server.pause = 60.0
    engine = open_on()
    handle = engine.submit([10], GREEDY, None)
    assert engine.advance() == [] == engine.advance()
    engine.cancel(handle)
    assert not engine.requests


def test_tokens_before_a_fault_are_given_out(server: FakeVllm, open_on: Open) -> None:
    engine = open_on()
    server.fault = "error"
    stream = engine.stream([[10]], GREEDY, None)
    assert next(stream).id == 11
    with pytest.raises(MachineError, match="EngineCore died"):
        list(stream)


def test_a_server_that_stalls_is_given_up(server: FakeVllm, open_on: Open) -> None:
    engine = open_on(patience=0.3)
    server.fault = "stalled"
    with pytest.raises(MachineError, match=r"said nothing for 0\.3 s"):
        list(engine.stream([[10]], GREEDY, None))


def test_a_model_or_a_key_that_is_gone_is_not_the_mistake_of_who_asks(
    server: FakeVllm, open_on: Open, adapter: Path
) -> None:
    engine = open_on(adapters={"calls": adapter})
    server.adapters.clear()
    with pytest.raises(MachineError, match="The model `calls` does not exist") as gone:
        list(engine.stream([[10]], GREEDY, "calls"))
    assert "--lora-modules" in gone.value.hint
    server.key = "sk-other"
    with pytest.raises(MachineError, match="does not accept the key") as refused:
        list(engine.stream([[10]], GREEDY, None))
    assert "SARTOR_VLLM_KEY" in refused.value.hint


def test_no_server_a_wrong_key_another_server_and_no_address(server: FakeVllm, open_on: Open) -> None:
    with pytest.raises(MachineError, match="no vLLM server answers at http://127") as caught:
        open_on(url="http://127.0.0.1:9")
    assert "SARTOR_VLLM_URL" in caught.value.hint
    with pytest.raises(UserError, match="does not accept the key") as refused:
        open_on(key="sk-wrong")
    assert "SARTOR_VLLM_KEY" in refused.value.hint
    assert "sk-wrong" not in str(refused.value)
    server.fault = "other server"
    with pytest.raises(MachineError, match="no JSON: '<html>"):
        open_on()
    for address in ("ftp://x", "127.0.0.1:8000", "http://", "http://[", "file:///etc/passwd"):
        with pytest.raises(UserError, match="is not the address of a server"):
            open_on(url=address)


def test_a_server_that_is_not_vllm_is_refused_and_leaves_nothing_running(
    server: FakeVllm, open_on: Open, adapter: Path
) -> None:
    server.fault = "no context"
    with pytest.raises(MachineError, match="does not say how long its context is") as caught:
        open_on(adapters={"calls": adapter})
    assert "is it vLLM 0.10.2 or newer?" in caught.value.hint
    assert server.adapters == {}
    assert "sartor-vllm" not in {thread.name for thread in threading.enumerate()}


def test_prompts_that_cannot_be_answered_are_refused_before_they_are_sent(server: FakeVllm, open_on: Open) -> None:
    engine = open_on()
    with pytest.raises(UserError, match="a prompt of 512 tokens leaves no room"):
        engine.submit([1] * 512, GREEDY, None)
    with pytest.raises(UserError, match="the prompt is empty"):
        engine.submit([], GREEDY, None)
    with pytest.raises(UserError, match="a sequence of 512 tokens"):
        engine.logprobs([[1] * 512], None)
    assert server.asked == []


# ---- log-probabilities -----------------------------------------------------------------------------------------------


def test_logprobs_are_sums_over_the_tokens_after_the_first(server: FakeVllm, open_on: Open, adapter: Path) -> None:
    engine = open_on(adapters={"calls": adapter})
    assert engine.logprobs([[5, 6, 7], [5]], None) == [-1.0, 0.0]
    assert engine.logprobs([[5, 6, 7]], "calls") == [-0.5]
    assert engine.logprobs([], None) == []
    asked = server.asked[0]
    assert (asked["prompt_logprobs"], asked["max_tokens"], "stream" in asked) == (0, 1, False)
    server.fault = "no logprobs"
    with pytest.raises(MachineError, match="no log-probabilities"):
        engine.logprobs([[5, 6, 7]], None)
