"""Turns as ShareGPT writes them: who speaks is in `from`, what is said in `value`. Several data sets vary the words.

A `function_call` holds one call or a list of calls as JSON, the `observation` after it what came back. Turns with
`role` and `content` are read as OpenAI's, because many files keep those under `conversations`.
"""

from __future__ import annotations

from typing import Any

from sartor.errors import FieldError
from sartor.formats import calls, fields
from sartor.formats.turns import Turn, read_turn, read_weight, under_system
from sartor.types import Json, Message, Role

#: `from`, in small letters -> our role. A call is the assistant's turn as well.
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
CALLS = ("function_call", "tool_call")
_KEYS = ("from", "value", "name", "weight")


def read_speakers(row: Json, key: str = "conversations") -> tuple[Turn, ...]:
    """The turns under `key`, after the row's own `system` where it has one.

    Raises:
        FieldError: the list is missing or empty, a turn is not one, or there are two system prompts.
    """
    if key not in row:
        raise FieldError(key, seen=fields.seen(row), expected=f"a list of turns `{key}`")
    said = fields.items(row, key, of="turns")
    if not said:
        raise FieldError(key, seen=fields.seen(row[key]), expected="a list of turns")
    turns = tuple(read_speaker(turn, f"{key}[{index}]") for index, turn in enumerate(said))
    return under_system(row, turns)


def read_speaker(turn: Any, place: str) -> Turn:
    """One turn, its keys in either convention.

    Raises:
        FieldError: it is not one.
    """
    fields.mapping(turn, place, what="a turn with `from` and `value`")
    if "role" in turn and "from" not in turn:
        return read_turn(turn, place)
    fields.refuse_typos(turn, _KEYS, place)
    speaker = fields.text(turn, "from", f"{place}.from").lower()
    if speaker not in ROLES:
        raise FieldError(f"{place}.from", seen=fields.seen(turn["from"]), expected=f"one of {', '.join(ROLES)}")
    weight = read_weight(turn, place)
    if speaker in CALLS:
        made = calls.parse_calls(fields.text(turn, "value", f"{place}.value"), f"{place}.value")
        return Turn(place, Message(role="assistant", tool_calls=made, weight=weight))
    role = ROLES[speaker]
    read = fields.filled if role in ("user", "assistant") else fields.text
    name = fields.optional(turn, "name", f"{place}.name")
    return Turn(place, Message(role=role, content=read(turn, "value", f"{place}.value"), name=name, weight=weight))


def read_tools(row: Json) -> tuple[Json, ...]:
    """The row's tools: OpenAI's, or bare function schemas as LLaMA-Factory keeps them, also as JSON in a text.

    Raises:
        FieldError: they are neither.
    """
    tools = calls.listed(row.get("tools"))
    if not isinstance(tools, list):
        return calls.read_tools({"tools": tools})
    wrapped = [tool if _is_wrapped(tool) else {"type": "function", "function": tool} for tool in tools]
    return calls.read_tools({"tools": wrapped})


def _is_wrapped(tool: Any) -> bool:
    return not isinstance(tool, dict) or "type" in tool or "function" in tool or "name" not in tool
