"""Our own prepared examples, as data folders and runs hold them. Each keeps the source that it came with."""

from __future__ import annotations

import math

from pydantic import ValidationError

from sartor.errors import FieldError
from sartor.formats import Parsed, Written, fields
from sartor.formats.keys import is_ours
from sartor.formats.turns import Turn, check_order
from sartor.types import EXAMPLE, Chat, Example, Json, Message, Pair, Source, Text

WRITES = True
SUMMARY = "examples that Sartor itself prepared: kind, source, and what that kind holds"
FIELDS: tuple[str, ...] = ("kind", "source")
SAMPLE: Json = {
    "kind": "chat",
    "source": {"file": "rows.jsonl", "line": 7, "origin": ""},
    "messages": [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Loire."}],
}


def matches(row: Json) -> bool:
    return is_ours(row)


def parse(row: Json, source: Source) -> Parsed:
    """The example. `source`, the place of the row itself, is not needed: the example names its own.

    Raises:
        FieldError: it is not as Sartor writes one, or holds what no format lets in.
    """
    if not is_ours(row):
        raise FieldError("kind", seen=fields.seen(row), expected="`kind` and `source`")
    for key, value in row.items():
        fields.clean_tree(value, fields.shorten(key) or '""')
    try:
        example = EXAMPLE.validate_python(row)
    except ValidationError as error:
        raise _refusal(error) from error
    _check(example)
    return Parsed(example)


def _refusal(error: ValidationError) -> FieldError:
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][1:]).lstrip(".")
    return FieldError(path or "kind", seen=fields.seen(first["input"]), expected=fields.shorten(first["msg"]))


def _check(example: Example) -> None:
    if isinstance(example, Text):
        if not example.text.strip():
            raise FieldError("text", seen=fields.seen(example.text), expected="a text with something in it")
        return
    if isinstance(example, Chat):
        before, answers = example.prompt, {"messages": example.messages[-1:]}
    elif isinstance(example, Pair):
        before, answers = example.prompt, {"chosen": (example.chosen,), "rejected": (example.rejected,)}
    else:
        before, answers = example.prompt, {"answer": (example.answer,)}
    for place, answer in answers.items():
        _check_answer(place, before, answer)


def _check_answer(place: str, before: tuple[Message, ...], answer: tuple[Message, ...]) -> None:
    for message in (*before, *answer):
        if not math.isfinite(message.weight):
            raise FieldError(f"{place}.weight", seen=f"the weight {message.weight}", expected="a finite number")
    if not before or not answer or answer[0].role != "assistant":
        roles = ", ".join(message.role for message in (*before, *answer)[:8]) or "none"
        raise FieldError(place, seen=f"the roles {roles}", expected="an answer, and a turn that it answers")
    check_order(tuple(Turn(place, message) for message in (*before, *answer)))


def write(example: Example) -> Written:
    """All of it."""
    return Written(example.model_dump(mode="json"))
