"""OASST: a tree of messages under a prompt, with ranked replies. The path of the best replies is one conversation.

Other branches are left out, and their number is told: they are other conversations, not other answers to this one.
"""

from __future__ import annotations

from typing import Any

from sartor.errors import FieldError
from sartor.formats import Change, Parsed, fields
from sartor.formats.keys import RATING, lacks
from sartor.formats.turns import Turn, conversation
from sartor.types import Json, Message, Role, Source

WRITES = False
SUMMARY = "OASST trees: a prompt with ranked replies to replies, of which the best are one conversation"
FIELDS: tuple[str, ...] = ("prompt", "message_tree_id", "tree_state")
SAMPLE: Json = {
    "message_tree_id": "6ab24d72",
    "tree_state": "ready_for_export",
    "prompt": {
        "text": "How tall is the Eiffel Tower?",
        "role": "prompter",
        "replies": [{"text": "330 metres.", "role": "assistant", "rank": 0, "replies": []}],
    },
}

_ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}


def matches(row: Json) -> bool:
    named = "message_tree_id" in row or "tree_state" in row
    return named and "prompt" in row and lacks(row, "completion", "messages", *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """The conversation of the best-ranked replies, as far as it ends with an answer.

    Raises:
        FieldError: a message on that path is malformed, or nobody answers.
    """
    next_best: tuple[Any, str] | None = (row.get("prompt"), "prompt")
    turns: list[Turn] = []
    left_out = 0
    while next_best:
        node, place = next_best
        turns.append(_turn(node, place))
        next_best, others = _ranked(node, place)
        left_out += sum(map(_size, others))
    parsed = conversation(tuple(turns), (), source)
    if not left_out:
        return parsed
    told = Change("prompt.replies", "branches_left_out", f"{left_out} messages in other branches of the tree")
    return Parsed(parsed.example, (*parsed.changes, told))


def _turn(node: Any, place: str) -> Turn:
    fields.mapping(node, place, what="a message with `text`, `role` and `replies`")
    role = fields.text(node, "role", f"{place}.role")
    if role not in _ROLES:
        raise FieldError(f"{place}.role", seen=fields.seen(role), expected="prompter or assistant")
    return Turn(place, Message(role=_ROLES[role], content=fields.filled(node, "text", f"{place}.text")))


def _ranked(node: Json, place: str) -> tuple[tuple[Any, str] | None, list[Json]]:
    """The best reply with its place, and the others. A reply without a rank stands behind those with one."""
    replies = [
        (fields.mapping(reply, f"{place}.replies[{index}]", what="a reply"), f"{place}.replies[{index}]")
        for index, reply in enumerate(fields.items(node, "replies", f"{place}.replies", of="replies"))
    ]
    alive = [reply for reply in replies if reply[0].get("deleted") is not True]
    if not alive:
        return None, [reply for reply, _ in replies]
    best = min(alive, key=lambda reply: _rank(*reply))
    return best, [reply for reply, _ in replies if reply is not best[0]]


def _rank(reply: Json, place: str) -> float:
    rank = reply.get("rank")
    if rank is None:
        return float("inf")
    if isinstance(rank, bool) or not isinstance(rank, int) or abs(rank) > 2**53:
        raise FieldError(f"{place}.rank", seen=fields.seen(rank), expected="a whole number, 0 for the best reply")
    return rank


def _size(node: Any) -> int:
    """Messages of a branch. Iterative: depth is not ours to trust."""
    waiting, size = [node], 0
    while waiting:
        size += 1
        replies = waiting.pop().get("replies")
        waiting += [reply for reply in replies if isinstance(reply, dict)] if isinstance(replies, list) else []
    return size
