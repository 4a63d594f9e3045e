"""What stands before an answer that is rated, and the answer, in all the shapes in which data sets write the two."""

from __future__ import annotations

import re
from itertools import dropwhile
from typing import Any

from sartor.errors import FieldError
from sartor.formats import fields, speakers
from sartor.formats.instructions import asked
from sartor.formats.turns import LEADING, Turn, check_order, read_turns
from sartor.types import Json, Message, Role

#: The names under which a row says what was asked, and what goes with them.
FIELDS: tuple[str, ...] = ("prompt", "messages", "conversations", "instruction", "input", "system", "history", "tools")

#: How Anthropic's helpful-harmless data marks its turns in one text.
_SPOKEN = re.compile(r"\n\n(Human|Assistant):(?: |(?=\n)|$)")
_SPEAKER: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


def read_asked(row: Json) -> tuple[Turn, ...]:
    """The turns before the answer, from whichever of `prompt`, `messages`, `conversations`, `instruction` is there.

    Raises:
        FieldError: none or several of them are there, or the one is malformed.
    """
    given = [key for key in ("prompt", "messages", "conversations", "instruction") if row.get(key) is not None]
    if len(given) > 1:
        raise FieldError(given[1], seen=f"both `{given[0]}` and `{given[1]}`", expected="one of them")
    if given == ["instruction"]:
        return asked(row)
    if given == ["conversations"]:
        return speakers.read_speakers(row)
    if given == ["messages"]:
        return read_turns(row, "messages")
    if not given and "prompt" not in row:
        return ()
    if isinstance(row["prompt"], list):
        return tuple(speakers.read_speaker(turn, f"prompt[{index}]") for index, turn in enumerate(row["prompt"]))
    return (Turn("prompt", Message(role="user", content=fields.filled(row, "prompt"))),)


def read_said(row: Json, key: str, before: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The conversation with the answer under `key` at its end: `before` and what the key holds, which is a text, one
    turn, or turns that may say again what stood before.

    Raises:
        FieldError: it is not there, malformed, out of order, or does not end with an answer.
    """
    if key not in row:
        raise FieldError(key, seen=fields.seen(row), expected=f"an answer `{key}`")
    turns = _read(row[key], key, spoken=not before)
    known = tuple(turn.message for turn in before)
    if turns and turns[0].message.role not in LEADING:
        known = tuple(dropwhile(lambda message: message.role in LEADING, known))
    if known and tuple(turn.message for turn in turns[: len(known)]) == known:
        turns = turns[len(known) :]
    if not turns or turns[-1].message.role != "assistant":
        place = turns[-1].place if turns else key
        raise FieldError(place, seen=turns[-1].message.role if turns else "nothing more", expected="an answer")
    if not before and len(turns) == 1:
        raise FieldError(key, seen="an answer with nothing before it", expected="a `prompt`, or the whole conversation")
    whole = (*before, *turns)
    check_order(whole)
    return whole


def _read(value: Any, key: str, *, spoken: bool) -> tuple[Turn, ...]:
    if isinstance(value, list):
        return tuple(speakers.read_speaker(turn, f"{key}[{index}]") for index, turn in enumerate(value))
    if isinstance(value, dict):
        return (speakers.read_speaker(value, key),)
    text = fields.filled({key: value}, key)
    marks = list(_SPOKEN.finditer(text)) if spoken else []
    if not marks or marks[0].start() != 0:
        return (Turn(key, Message(role="assistant", content=text)),)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return tuple(_said(text[mark.end() : end], mark[1], key) for mark, end in zip(marks, ends, strict=True))


def _said(text: str, speaker: str, key: str) -> Turn:
    if not text.strip():
        raise FieldError(key, seen=f"an empty turn of {speaker}", expected="a text with something in it")
    return Turn(key, Message(role=_SPEAKER[speaker], content=text))
