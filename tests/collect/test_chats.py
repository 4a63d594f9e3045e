"""From the log of our own server to conversations: only with consent, only whole answers, each turn once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sartor.collect import chats
from sartor.collect.gather import gather, origin_of
from sartor.data.folder import DataFolder
from sartor.errors import DataError
from sartor.serve.chat_log import ChatLog
from sartor.serve.wire import ChatRequest
from sartor.types import Chat

from .site import FakeTime


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


FIRST = [turn("user", "What is 2 + 2?")]
SECOND = [*FIRST, turn("assistant", "4"), turn("user", "And 3 + 3?")]


def logged(path: Path, messages: Any, answer: str, finish: str = "stop", **fields: Any) -> None:
    request = {"model": "tickets", "messages": messages, "store": True, **fields}
    ChatLog(path).keep(ChatRequest.model_validate(request), answer, finish)


def collected(path: Path, **options: Any) -> DataFolder:
    origin = origin_of(path.name, root=path.parent, **options)
    assert origin.source == "chats"
    return gather([origin], path.parent / "out", clock=FakeTime().clock())


def test_turns_of_one_conversation_are_each_learnt_once_and_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    logged(path, FIRST, "4")
    logged(path, SECOND, "6", tools=[tool])
    logged(path, [turn("user", "Hello")], "Hi", metadata={"conversation": "c7"})
    first, second, third = collected(path).examples()
    assert isinstance(first, Chat) and isinstance(second, Chat)
    assert (first.target, second.target, second.tools) == ("4", "6", (tool,))
    assert [message.weight for message in second.messages] == [1.0, 0.0, 1.0, 1.0]
    assert first.source.origin == second.source.origin != third.source.origin == "conversation:c7"
    assert (first.source.file, first.source.line) == ("chats.jsonl", 2)
    place = json.loads((tmp_path / "out" / "places.jsonl").read_text())
    assert (place["place"], place["about"]) == ("chats.jsonl", {"kind": "sartor.chats"})


def test_what_is_not_taken_has_a_line_and_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    logged(path, FIRST, "4")
    whole = json.loads(path.read_text().splitlines()[1])
    lines = [whole | {"consent": False}, whole | {"finish": "length"}, whole | {"answer": " "}, whole | {"more": 1}]
    lines += [whole | {"model": "base"}, {name: value for name, value in whole.items() if name != "consent"}]
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.write("{torn\n" + "[" * 100_000 + "\n")
    folder = collected(path, models=("tickets",))
    assert len(list(folder.examples())) == 1
    assert {entry.line: entry.reason for entry in folder.ledger()} == {
        3: "no_consent",
        4: "unfinished",
        5: "empty",
        6: "field",
        7: "other_model",
        8: "field",
        9: "syntax",
        10: "too_deep",
    }


def test_a_line_that_is_too_long_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chats.jsonl"
    logged(path, FIRST, "4")
    logged(path, FIRST, "4" * 5000)
    logged(path, SECOND, "6")
    monkeypatch.setattr(chats, "CHAT_BYTES", 1000)
    folder = collected(path)
    assert [example.source.line for example in folder.examples()] == [2, 6]
    assert {entry.line: entry.reason for entry in folder.ledger()} == {4: "too_long"}


def test_a_log_is_read_as_nothing_else(tmp_path: Path) -> None:
    """As rows of some format its chats would be learnt from whether or not somebody agreed."""
    (tmp_path / "folder").mkdir()
    logged(tmp_path / "folder" / "chats.jsonl", FIRST, "4")
    with pytest.raises(DataError, match="unreadable"):
        gather([origin_of("folder", root=tmp_path)], tmp_path / "out")
