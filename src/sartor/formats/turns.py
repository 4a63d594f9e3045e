"""Turns of a conversation: each message read on its own, then their order, then what follows the last answer.

Every format that makes a Chat ends here, so that a conversation means the same whatever file it came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sartor.errors import FieldError
from sartor.formats import Change, Parsed, fields
from sartor.formats.calls import read_calls
from sartor.types import Chat, Json, Message, Role, Source, ToolCall

_ROLES: tuple[Role, ...] = get_args(Role)
LEADING = ("system", "developer")
#: `reasoning` is what vLLM and gpt-oss call what others call `reasoning_content`.
_REASONING = ("reasoning_content", "reasoning")
#: The keys that mean something on one role only: elsewhere they are a mistake, and would be lost silently.
_BELONGS = {
    "tool_calls": "assistant",
    "function_call": "assistant",
    "reasoning_content": "assistant",
    "reasoning": "assistant",
    "tool_call_id": "tool",
}
#: What OpenAI's logs carry beside the turn itself: known, and without meaning for training.
_IGNORED = ("refusal", "audio", "annotations")
_KEYS = ("role", "content", "name", "weight", *_BELONGS, *_IGNORED)


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and its place in the row, such as `messages[2]`."""

    place: str
    message: Message


def read_turns(row: Json, key: str) -> tuple[Turn, ...]:
    """The messages under `key`, each checked on its own.

    Raises:
        FieldError: the list is missing or empty, or a message is not one.
    """
    if key not in row:
        raise FieldError(key, seen=fields.seen(row), expected=f"a list of messages `{key}`")
    messages = fields.items(row, key, of="messages")
    if not messages:
        raise FieldError(key, seen=fields.seen(row[key]), expected="a list of messages")
    return tuple(read_turn(message, f"{key}[{index}]") for index, message in enumerate(messages))


def under_system(row: Json, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns, after the row's own `system` where it has one and they do not begin with the same.

    Raises:
        FieldError: it is not a text, or they begin with another system prompt.
    """
    system = fields.optional(row, "system")
    if not system:
        return turns
    first = turns[0]
    if first.message.role != "system":
        return (Turn("system", Message(role="system", content=system)), *turns)
    if first.message.content != system:
        raise FieldError("system", seen=f"another system prompt here than in {first.place}", expected="one of them")
    return turns


def conversation(turns: tuple[Turn, ...], tools: tuple[Json, ...], source: Source) -> Parsed:
    """The Chat that the turns make. What follows the last answer is left out, and reported as a change.

    Raises:
        FieldError: the turns are in an order that no conversation has, or nobody answers.
    """
    check_order(turns)
    answers = [index for index, turn in enumerate(turns) if turn.message.role == "assistant"]
    if not answers:
        root = turns[-1].place.partition("[")[0]
        roles = ", ".join(turn.message.role for turn in turns[:8])
        raise FieldError(root, seen=f"the roles {roles}", expected="at least one assistant turn")
    if answers[-1] == 0:
        raise FieldError(turns[0].place, seen="an answer with nothing before it", expected="a turn that it answers")
    end = answers[-1] + 1
    chat = Chat(source=source, messages=tuple(turn.message for turn in turns[:end]), tools=tools)
    return Parsed(chat, (_cut(turns[end:]),) if turns[end:] else ())


def _cut(rest: tuple[Turn, ...]) -> Change:
    roles = ", ".join(turn.message.role for turn in rest[:8])
    return Change(rest[0].place, "cut_after_answer", f"left out {len(rest)} after the last assistant turn: {roles}")


def read_turn(message: Any, place: str) -> Turn:
    """One message.

    Raises:
        FieldError: it is not one.
    """
    fields.mapping(message, place, what="a message with `role` and `content`")
    fields.refuse_typos(message, _KEYS, place)
    role = _role(message, place)
    for key, owner in _BELONGS.items():
        if message.get(key) and role != owner:
            raise FieldError(f"{place}.{key}", seen=f"it on a turn of the role {role}", expected=f"it on {owner} only")
    calls = read_calls(message, place) if role == "assistant" else ()
    made = Message(
        role=role,
        content=_content(message, place, role, calls),
        reasoning=_reasoning(message, place),
        name=fields.optional(message, "name", f"{place}.name"),
        tool_calls=calls,
        tool_call_id=fields.optional(message, "tool_call_id", f"{place}.tool_call_id"),
        weight=read_weight(message, place),
    )
    return Turn(place, made)


def _role(message: Json, place: str) -> Role:
    role = fields.text(message, "role", f"{place}.role")
    if role == "function":  # the older name of a tool turn, next to `function_call`
        return "tool"
    for known in _ROLES:
        if role == known:
            return known
    raise FieldError(f"{place}.role", seen=fields.seen(role), expected=f"one of {', '.join(_ROLES)}")


def _content(message: Json, place: str, role: Role, calls: tuple[ToolCall, ...]) -> str:
    path = f"{place}.content"
    value = message.get("content")
    if value is None and calls:
        return ""
    if isinstance(value, list):
        content = "".join(_part(part, f"{path}[{index}]") for index, part in enumerate(value))
    else:
        content = fields.text(message, "content", path)
    if role in ("user", "assistant") and not calls and not content.strip():
        expected = "an answer, or tool calls" if role == "assistant" else "a text with something in it"
        raise FieldError(path, seen=fields.seen(value), expected=expected)
    return content


def _part(part: Any, place: str) -> str:
    fields.mapping(part, place, what='{"type": "text", "text": …}')
    kind = fields.text(part, "type", f"{place}.type")
    if kind != "text":
        raise FieldError(f"{place}.type", seen=fields.seen(kind), expected='"text": only text is trained')
    return fields.text(part, "text", f"{place}.text")


def _reasoning(message: Json, place: str) -> str:
    found = [fields.optional(message, key, f"{place}.{key}") for key in _REASONING]
    if all(found) and found[0] != found[1]:
        raise FieldError(f"{place}.reasoning", seen="another text in `reasoning_content`", expected="one of the two")
    return found[0] or found[1]


def read_weight(message: Json, place: str) -> Literal[0, 1]:
    """1, or 0 for a turn that is context only.

    Raises:
        FieldError: it is neither.
    """
    value = message.get("weight")
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1):
        raise FieldError(f"{place}.weight", seen=fields.seen(value), expected="0 or 1")
    return 1 if value else 0


def check_order(turns: tuple[Turn, ...]) -> None:
    """Is this an order that a conversation can have?

    Raises:
        FieldError: it is not, with the turn that stands where it cannot.
    """
    before = ""
    waiting: list[str] = []  # the ids of the calls that no tool turn has answered yet
    for turn in turns:
        role, path = turn.message.role, f"{turn.place}.role"
        if role in LEADING and before not in ("", *LEADING):
            raise FieldError(path, seen=f"{role} after {before}", expected=f"{role} before all other turns")
        if role == "assistant" and before == "assistant":
            raise FieldError(path, seen="assistant after assistant", expected="a user or tool turn between two answers")
        if role == "tool":
            _answer(turn, waiting)
        else:
            waiting = [call.id for call in turn.message.tool_calls]
        before = role


def _answer(turn: Turn, waiting: list[str]) -> None:
    """Strike out the call that this tool turn answers: by its id, or in order where one side has no id."""
    if not waiting:
        raise FieldError(
            f"{turn.place}.role", seen="tool", expected="an unanswered tool call of the assistant before it"
        )
    answered = turn.message.tool_call_id
    if not answered:
        waiting.pop(0)
    elif answered in waiting:
        waiting.remove(answered)
    elif "" in waiting:
        waiting.remove("")
    else:
        expected = "one of the calls before it: " + ", ".join(map(fields.shorten, waiting[:8]))
        raise FieldError(f"{turn.place}.tool_call_id", seen=fields.seen(answered), expected=expected)
