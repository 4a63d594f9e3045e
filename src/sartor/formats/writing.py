"""Writing an example as a row: what several formats share. What a format cannot hold is a `Change`, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from sartor.errors import FieldError
from sartor.formats import Change, Written
from sartor.types import Chat, Example, Json, Message, Pair, Text, ToolCall


def message_row(message: Message) -> Json:
    """A message as OpenAI writes it, with nothing in it that says no more than its absence."""
    row: Json = {"role": message.role, "content": message.content}
    if message.reasoning:
        row["reasoning_content"] = message.reasoning
    if message.name:
        row["name"] = message.name
    if message.tool_calls:
        row["tool_calls"] = [_call_row(call) for call in message.tool_calls]
    if message.tool_call_id:
        row["tool_call_id"] = message.tool_call_id
    if message.weight != 1:
        row["weight"] = 1 if message.weight else 0
    return row


def _call_row(call: ToolCall) -> Json:
    named = {"id": call.id} if call.id else {}
    return {**named, "type": "function", "function": {"name": call.name, "arguments": in_text(call.arguments)}}


def in_text(value: object) -> str:
    """A JSON value in a text."""
    return json.dumps(value, ensure_ascii=False)


def with_tools(row: Json, tools: Sequence[Json]) -> Json:
    return {**row, "tools": list(tools)} if tools else row


def as_chat(example: Example) -> tuple[Chat, tuple[Change, ...]]:
    """The conversation that imitates an example, and what of it that leaves out.

    Raises:
        FieldError: there is none.
    """
    if isinstance(example, Chat):
        return example, ()
    if isinstance(example, Text):
        raise FieldError("text", seen="running text", expected="a conversation")
    if isinstance(example, Pair):
        answer, left_out = example.chosen, Change("rejected", "rejected_left_out", "the worse answer is left out")
    elif example.good:
        answer, left_out = example.answer, Change("good", "rating_left_out", "that the answer was liked is left out")
    else:
        raise FieldError("good", seen="an answer that somebody did not like", expected="one to imitate")
    return Chat(source=example.source, messages=(*example.prompt, answer), tools=example.tools), (left_out,)


def rounded(messages: Sequence[Message]) -> Iterator[Change]:
    """Weights that are neither 0 nor 1, which no data set knows."""
    for index, message in enumerate(messages):
        if message.weight not in (0, 1):
            yield Change(f"messages[{index}].weight", "weight_rounded", f"{message.weight:g} is written as 1")


def without(messages: Sequence[Message], *parts: str) -> Iterator[Change]:
    """What a format leaves out that has no place for these parts of a message."""
    for index, message in enumerate(messages):
        for part in parts:
            field = f"messages[{index}].{part}"
            if part == "weight":
                if message.weight != 1 and message.role == "assistant":
                    yield Change(field, "weight_left_out", f"an answer of weight {message.weight:g} is written as any")
            elif vars(message)[part]:
                yield Change(field, f"{part}_left_out", f"the format has no place for `{part}`")


def refuse_calls(messages: Iterable[Message]) -> None:
    """For formats of texts alone.

    Raises:
        FieldError: a message calls a tool, or is the answer of one.
    """
    for index, message in enumerate(messages):
        if message.tool_calls or message.role == "tool":
            raise FieldError(f"messages[{index}]", seen="a tool call or its result", expected="texts alone")


def written(row: Json, *changes: Iterable[Change]) -> Written:
    return Written(row, tuple(change for some in changes for change in some))
