"""What is kept of chats: those whose users agreed, whole, and nothing that says who they are."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from sartor.errors import MachineError, UserError
from sartor.serve.chat_log import ChatLog
from sartor.serve.wire import ChatRequest

ASK: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_kept_whole_if_its_user_agreed(start: Any, tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "logs" / "chats.jsonl"
    server = start(key="sk-very-secret", log=ChatLog(path))
    create = server.client().chat.completions.create
    for store in (None, False, True):
        given = {} if store is None else {"store": store}
        reply = create(model="tickets", messages=ASK, stream=stream, user="jane", metadata={"topic": "x"}, **given)
        if stream:
            list(reply)
    heading, kept = lines(path)
    assert heading["kind"] == "sartor.chats" and heading["version"] == 1
    assert (kept["model"], kept["answer"], kept["finish"]) == ("tickets", "tickets: Hello, wörld 🙂!", "stop")
    assert [turn["content"] for turn in kept["request"]] == ["Be kind.", "hi"]
    assert kept["metadata"] == {"topic": "x"} and kept["consent"] is True and kept["time"]
    assert not any(word in path.read_text() for word in ("sk-very-secret", "jane", "127.0.0.1"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_answer_that_nobody_waited_for_is_not_kept(
    start: Any, scripted: Any, eventually: Any, tmp_path: Path
) -> None:
    gate = threading.Semaphore(1)
    server = start(scripted(gate=gate, script="Hello " * 500), log=ChatLog(tmp_path / "chats.jsonl"))
    stream = server.client().chat.completions.create(model="base", messages=ASK, stream=True, store=True)
    next(iter(stream))
    stream.close()

    def noticed() -> bool:
        gate.release()
        return bool(server.engine.num_cancelled)

    eventually(noticed)
    gate.release(10_000)
    server.client().chat.completions.create(model="base", messages=ASK, store=True, max_tokens=5)
    assert [line.get("answer") for line in lines(tmp_path / "chats.jsonl")] == [None, "Hello"]


def test_without_a_log_nothing_is_kept(server: Any, tmp_path: Path) -> None:
    server.client().chat.completions.create(model="base", messages=ASK, store=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("agreed", ["true", 1, "yes", {"ok": True}])
def test_only_true_is_agreement(tmp_path: Path, agreed: Any) -> None:
    log = ChatLog(tmp_path / "chats.jsonl")
    log.keep(ChatRequest.model_validate({"model": "m", "messages": ASK, "store": agreed}), "yes", "stop")
    assert len(lines(tmp_path / "chats.jsonl")) == 1


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({"a": "b"}, {"a": "b"}),
        ({"a": "b" * 513, "c" * 65: "d", "e": 1}, {}),
        ({str(number): "x" for number in range(17)}, {}),
        ("text", {}),
        (None, {}),
    ],
)
def test_metadata_is_kept_within_openais_bounds(tmp_path: Path, metadata: Any, kept: Any) -> None:
    log = ChatLog(tmp_path / "chats.jsonl")
    request = {"model": "m", "messages": ASK, "store": True, "metadata": metadata}
    log.keep(ChatRequest.model_validate(request), "yes", "stop")
    assert lines(tmp_path / "chats.jsonl")[1]["metadata"] == kept


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    log = ChatLog(tmp_path / "chats.jsonl")
    request = ChatRequest.model_validate({"model": "m", "messages": ASK, "store": True})
    threads = [threading.Thread(target=log.keep, args=(request, "y" * 5000, "stop")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path / "chats.jsonl")) == 21


def test_a_log_goes_on_and_nothing_else_is_written_to(tmp_path: Path) -> None:
    path, recipe = tmp_path / "chats.jsonl", tmp_path / "sartor.yaml"
    path.touch()
    for count in (1, 2):
        ChatLog(path)
        assert len(lines(path)) == count
    recipe.write_text("model: tiny\n")
    recipe.chmod(0o644)
    with pytest.raises(UserError, match=r"sartor\.yaml is there and is no log of chats"):
        ChatLog(recipe)
    assert recipe.read_text() == "model: tiny\n" and stat.S_IMODE(recipe.stat().st_mode) == 0o644


def test_a_log_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        ChatLog(tmp_path)
