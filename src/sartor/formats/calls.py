"""Tools and tool calls in OpenAI's shape, the older `functions` and `function_call` included."""

from __future__ import annotations

from typing import Any

from sartor.errors import FieldError
from sartor.formats import fields, strict
from sartor.types import Json, ToolCall

_CALL_KEYS = ("id", "type", "function")
_FUNCTION_KEYS = ("name", "arguments")


def read_tools(row: Json) -> tuple[Json, ...]:
    """The row's tools: `tools` as they are, or as JSON in a text, because columns hold no objects of all shapes; older
    `functions` wrapped as tools. None of both is no tools.

    Raises:
        FieldError: one of them is not `{"type": "function", "function": {"name": …, "parameters": …}}`.
    """
    tools = fields.items({"tools": listed(row.get("tools"))}, "tools", of="tools")
    functions = fields.items(row, "functions", of="function schemas")
    if tools and functions:
        raise FieldError("functions", seen="both `tools` and `functions`", expected="one of them")
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        fields.mapping(tool, place, what='{"type": "function", "function": {…}}')
        if tool.get("type") != "function":
            found = fields.seen(tool["type"]) if "type" in tool else fields.seen(tool)
            raise FieldError(f"{place}.type", seen=found, expected='"function"')
        _check_schema(tool.get("function"), f"{place}.function")
        fields.clean_tree(tool, place)
    for index, function in enumerate(functions):
        _check_schema(function, f"functions[{index}]")
        fields.clean_tree(function, f"functions[{index}]")
    return (*tools, *({"type": "function", "function": function} for function in functions))


def listed(tools: Any) -> Any:
    """The tools, parsed if they are a text; an empty text is none.

    Raises:
        FieldError: the text is not JSON.
    """
    if not isinstance(tools, str):
        return tools
    if not tools.strip():
        return None
    try:
        return strict.loads(fields.clean(tools, "tools").encode("utf-8"))
    except strict.Malformed as error:
        raise FieldError("tools", seen=error.seen, expected=f"a JSON list of tools: {error.expected}") from error


def read_calls(message: Json, path: str) -> tuple[ToolCall, ...]:
    """The calls of one assistant message, their arguments parsed.

    Raises:
        FieldError: a call without a name, or with arguments that are not a JSON object.
    """
    calls = fields.items(message, "tool_calls", f"{path}.tool_calls", of="tool calls")
    legacy = message.get("function_call")
    if legacy is not None:
        if calls:
            raise FieldError(
                f"{path}.function_call", seen="both `tool_calls` and `function_call`", expected="one of them"
            )
        return (_function(legacy, f"{path}.function_call", id=""),)
    made = tuple(_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(calls))
    ids = [call.id for call in made if call.id]
    for index, call in enumerate(made):
        if call.id and call.id in ids[:index]:
            raise FieldError(
                f"{path}.tool_calls[{index}].id", seen=f"{fields.seen(call.id)} twice", expected="an id of its own"
            )
    return made


def parse_calls(text: str, place: str) -> tuple[ToolCall, ...]:
    """The calls in a text: the JSON of one `{"name": …, "arguments": …}`, or of a list of them.

    Raises:
        FieldError: it is not that.
    """
    expected = "the JSON of a call with `name` and `arguments`"
    try:
        value = strict.loads(text.encode("utf-8"))
    except strict.Malformed as error:
        raise FieldError(place, seen=error.seen, expected=f"{expected}: {error.expected}") from error
    if value == []:
        raise FieldError(place, seen="an empty list", expected=expected)
    if not isinstance(value, list):
        return (_function(value, place, id=""),)
    return tuple(_function(call, f"{place}[{index}]", id="") for index, call in enumerate(value))


def _call(call: Any, place: str) -> ToolCall:
    fields.mapping(call, place, what="a tool call with `id` and `function`")
    fields.refuse_typos(call, _CALL_KEYS, place)
    if call.get("type", "function") != "function":
        raise FieldError(f"{place}.type", seen=fields.seen(call["type"]), expected='"function"')
    return _function(call.get("function"), f"{place}.function", id=fields.optional(call, "id", f"{place}.id"))


def _function(function: Any, place: str, *, id: str) -> ToolCall:
    fields.mapping(function, place, what="an object with `name` and `arguments`")
    fields.refuse_typos(function, _FUNCTION_KEYS, place)
    name = fields.filled(function, "name", f"{place}.name")
    return ToolCall(name=name, arguments=_arguments(function, f"{place}.arguments"), id=id)


def _arguments(function: Json, place: str) -> Json:
    """OpenAI writes the arguments as a JSON string, chat templates and many data sets as an object: both are read."""
    if "arguments" not in function:
        raise FieldError(place, seen=fields.seen(function), expected="a JSON object in a string")
    value = function["arguments"]
    if isinstance(value, str):
        try:
            value = strict.loads(fields.clean(value, place).encode("utf-8"))
        except strict.Malformed as error:
            raise FieldError(place, seen=error.seen, expected=f"a JSON object in a string: {error.expected}") from error
    fields.mapping(value, place, what="a JSON object in a string")
    fields.clean_tree(value, place)
    made: Json = value
    return made


def _check_schema(function: Any, place: str) -> None:
    fields.mapping(function, place, what="an object with `name` and `parameters`")
    fields.filled(function, "name", f"{place}.name")
    fields.optional(function, "description", f"{place}.description")
    if function.get("parameters") is not None:
        fields.mapping(function["parameters"], f"{place}.parameters", what="a JSON Schema object")
