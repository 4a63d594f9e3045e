"""ShareGPT: a list of turns, each with `from` and `value`. `speakers` says how one is read."""

from __future__ import annotations

from typing import Any

from sartor.errors import FieldError
from sartor.formats import Change, Parsed, Written
from sartor.formats.keys import RATING, lacks
from sartor.formats.plain import plain_chat
from sartor.formats.speakers import read_speakers, read_tools
from sartor.formats.turns import conversation
from sartor.formats.writing import as_chat, in_text, rounded, without, written
from sartor.types import Chat, Example, Json, Message, Source

WRITES = True
SUMMARY = "conversations of from and value, as ShareGPT and LLaMA-Factory write them: tools, calls, observations"
FIELDS: tuple[str, ...] = ("conversations", "system", "tools")
SAMPLE: Json = {
    "conversations": [
        {"from": "human", "value": "Will it rain in Rome?"},
        {"from": "function_call", "value": '{"name": "forecast", "arguments": {"city": "Rome"}}'},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "No, it stays sunny."},
    ],
    "system": "You plan trips.",
    "tools": '[{"name": "forecast", "description": "The weather of tomorrow.", "parameters": {"type": "object"}}]',
}

_KEYS = frozenset({"from", "value"})
_PLAIN = {"human": "user", "gpt": "assistant", "system": "system"}
_SPEAKING = tuple(_PLAIN)


def matches(row: Json) -> bool:
    return "conversations" in row and lacks(row, "messages", *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """One conversation.

    Raises:
        FieldError: a turn is malformed, the turns are out of order, or nobody answers.
    """
    bare = row.get("tools") is None and row.get("system") is None
    if bare and (chat := plain_chat(_messages(row.get("conversations")), source)):
        return Parsed(chat)
    return conversation(read_speakers(row), read_tools(row), source)


def _messages(turns: Any) -> list[Json] | None:
    """Plain turns as OpenAI's messages, for the quick way; None where one is not plain."""
    if not isinstance(turns, list):
        return None
    made: list[Json] = []
    for turn in turns:
        if not isinstance(turn, dict) or turn.keys() != _KEYS or turn["from"] not in _SPEAKING:
            return None
        made.append({"role": _PLAIN[turn["from"]], "content": turn["value"]})
    return made


_SPEAKERS = {"system": "system", "developer": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def write(example: Example) -> Written:
    """The turns, and the tools as JSON in a text.

    Raises:
        FieldError: the example is running text, an answer that is not to be imitated, or has results in another order
            than their calls, which only ids could tell apart.
    """
    chat, left_out = as_chat(example)
    _check_order_of_results(chat)
    row: Json = {"conversations": [_turn(message) for message in chat.messages]}
    if chat.tools:
        row["tools"] = in_text(list(chat.tools))
    parts = without(chat.messages, "reasoning", "tool_call_id")
    return written(row, left_out, parts, _of_calls(chat.messages), rounded(chat.messages))


def _turn(message: Message) -> Json:
    if message.tool_calls:
        calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
        row: Json = {"from": "function_call", "value": in_text(calls[0] if len(calls) == 1 else calls)}
    else:
        row = {"from": _SPEAKERS[message.role], "value": message.content}
        if message.name:
            row["name"] = message.name
    if message.weight != 1:
        row["weight"] = 1 if message.weight else 0
    return row


def _of_calls(messages: tuple[Message, ...]) -> list[Change]:
    changes = []
    for index, message in enumerate(messages):
        if message.role == "developer":
            changes.append(Change(f"messages[{index}].role", "developer_as_system", ""))
        if not message.tool_calls:
            continue
        if message.content or message.name:
            changes.append(Change(f"messages[{index}].content", "content_left_out", "what is said beside a tool call"))
        if any(call.id for call in message.tool_calls):
            changes.append(Change(f"messages[{index}].tool_calls", "ids_left_out", "results follow in their order"))
    return changes


def _check_order_of_results(chat: Chat) -> None:
    waiting: list[str] = []
    for index, message in enumerate(chat.messages):
        if message.tool_calls:
            waiting = [call.id for call in message.tool_calls]
        elif message.role == "tool" and waiting:
            expected = waiting.pop(0)
            if message.tool_call_id and expected and message.tool_call_id != expected:
                seen = "results in another order than their calls"
                raise FieldError(f"messages[{index}].tool_call_id", seen=seen, expected="the order of the calls")
