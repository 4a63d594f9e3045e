"""OpenAI chat: a list of messages, with tools, tool calls, reasoning and a training weight per answer.

`functions` and `function_call`, the older shape, are read too, and a `system` beside the messages, as Anthropic has it;
`parallel_tool_calls`, a request option, is ignored.
"""

from __future__ import annotations

from sartor.formats import Parsed, Written
from sartor.formats.calls import read_tools
from sartor.formats.keys import RATING, lacks
from sartor.formats.plain import plain_chat
from sartor.formats.turns import conversation, read_turns, under_system
from sartor.formats.writing import as_chat, message_row, rounded, with_tools, written
from sartor.types import Example, Json, Source

WRITES = True
SUMMARY = "messages with roles, as for OpenAI's chat API: tools, several turns, weight 0 for context only"
FIELDS: tuple[str, ...] = ("messages", "tools", "functions", "system")
SAMPLE: Json = {
    "messages": [
        {"role": "system", "content": "You plan trips."},
        {"role": "user", "content": [{"type": "text", "text": "Will it rain in Rome?"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "The forecast knows.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "forecast", "arguments": '{"city": "Rome"}'}}
            ],
            "weight": 0,
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "assistant", "content": "No, it stays sunny.", "weight": 1},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "forecast",
                "description": "The weather of tomorrow.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ],
    "parallel_tool_calls": False,
}


def matches(row: Json) -> bool:
    """A row that is rated, or that has a better and a worse answer, is for preferences: it must not be imitated."""
    return "messages" in row and lacks(row, *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """One conversation.

    Raises:
        FieldError: a message is malformed, the roles are out of order, there are two system prompts, or nobody answers.
    """
    bare = row.get("tools") is None and row.get("functions") is None and row.get("system") is None
    if bare and (chat := plain_chat(row.get("messages"), source)):
        return Parsed(chat)
    return conversation(under_system(row, read_turns(row, "messages")), read_tools(row), source)


def write(example: Example) -> Written:
    """The messages and tools.

    Raises:
        FieldError: the example is running text, or an answer that is not to be imitated.
    """
    chat, left_out = as_chat(example)
    row: Json = {"messages": [message_row(message) for message in chat.messages]}
    return written(with_tools(row, chat.tools), left_out, rounded(chat.messages))
