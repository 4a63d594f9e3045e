"""One request to a chat endpoint and what its reply means. Pure: `endpoint.py` does the sending."""

from __future__ import annotations

import email.utils
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sartor.ask import Question, Wish
from sartor.errors import FieldError
from sartor.formats import fields, strict
from sartor.types import Json, Message

#: Characters of a token of English, as a rule of thumb: where a server does not say how many tokens it counted.
CHARACTERS = 4
#: No reply of a chat endpoint is as large: 8 MiB.
LONGEST = 8 * 2**20
#: Statuses after which the same request may succeed.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
#: Statuses that every request would get: somebody has to mend something first.
FATAL = frozenset({301, 302, 307, 308, 401, 402, 403, 404, 405})
#: Ways of asking for JSON, from the strictest; a server that refuses one is asked in the next.
_FORMATS = ("json_schema", "json_object", "")


@dataclass(frozen=True, slots=True)
class Manner:
    """How this server wants to be asked: which parameters it knows. It is found out by being refused."""

    format: str = _FORMATS[0]
    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()

    def other(self, said: str, *, wants_schema: bool) -> Manner | None:
        """What to try after a refusal with these words; None where there is nothing left to leave out."""
        if "max_completion_tokens" in said and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        for name in ("temperature", "seed"):
            if name in said and name not in self.without:
                return replace(self, without=self.without | {name})
        if wants_schema and self.format:
            return replace(self, format=_FORMATS[_FORMATS.index(self.format) + 1])
        return None


class Trouble(Exception):
    """One try gave nothing. `again`: the next one may; `wait`: seconds that the server asks for; `fatal`: no question
    would be answered; `reply`: what is paid for all the same."""

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        again: bool,
        wait: float = 0.0,
        fatal: bool = False,
        refused: bool = False,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.again = again
        self.wait = wait
        self.fatal = fatal
        self.refused = refused
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said, and how many tokens that was."""

    text: str
    truncated: bool
    prompt_tokens: int
    output_tokens: int
    estimated: bool


def payload(model: str, question: Question, wish: Wish, manner: Manner) -> Json:
    """The body of a request."""
    body: Json = {
        "model": model,
        "messages": [_shaped(message) for message in question.messages],
        manner.limit: wish.max_tokens,
        "temperature": wish.temperature,
        "seed": question.seed(wish.seed),
    }
    if wish.schema is not None and manner.format == "json_schema":
        named = {"name": "answer", "schema": wish.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif wish.schema is not None and manner.format:
        body["response_format"] = {"type": manner.format}
    return {key: value for key, value in body.items() if key not in manner.without}


def read_reply(body: bytes, asked: Sequence[Message]) -> Reply:
    """The answer in the body of a reply of status 200.

    Raises:
        Trouble: it is not JSON, or not a chat completion with a text in it.
    """
    try:
        value = strict.loads(body)
    except strict.Malformed as error:
        raise Trouble("bad_reply", f"not JSON: {error.message}", again=True) from error
    choice = _first_choice(value)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Trouble("bad_reply", f"`choices[0].message` is {fields.seen(message)}", again=True)
    text = _text(message.get("content"))
    reply = _counted(text, value.get("usage"), asked, truncated=choice.get("finish_reason") == "length")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal and not text.strip():
        raise Trouble("refused", fields.seen(refusal), again=False, reply=reply)
    if choice.get("finish_reason") == "content_filter":
        raise Trouble("filtered", "the server's filter took the answer away", again=False, reply=reply)
    if not text.strip():
        raise Trouble("empty", "the answer has no text", again=True, reply=reply)
    return reply


def refusal(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Trouble:
    """What a status other than 200 means. `now` is the time of day, for a date in Retry-After."""
    said = fields.shorten(message_of(body))
    exhausted = "insufficient_quota" in body.decode("utf-8", "replace")
    detail = f"the server answered {status}: {said}"
    if status in FATAL or exhausted:
        return Trouble(f"http_{status}", detail, again=False, fatal=True)
    if status in PASSING:
        return Trouble(f"http_{status}", detail, again=True, wait=retry_after(headers.get("retry-after", ""), now))
    return Trouble(f"http_{status}", detail, again=False, refused=status in (400, 415, 422, 501))


def retry_after(value: str, now: float) -> float:
    """Seconds to wait by a Retry-After header, a number or a date; 0 where it says nothing sensible."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def message_of(body: bytes) -> str:
    """The words of an error, in OpenAI's shape or any other."""
    try:
        value = json.loads(body) if not strict.too_deep(body) else None
    except ValueError:
        value = None
    if isinstance(value, dict):
        inner = value.get("error", value)
        found = inner.get("message", inner.get("detail", "")) if isinstance(inner, dict) else inner
        if isinstance(found, str) and found:
            return found
    return body.decode("utf-8", "replace").strip() or "no words"


def reckoned(characters: int) -> int:
    """Tokens of so many characters, roughly."""
    return math.ceil(characters / CHARACTERS)


def _shaped(message: Message) -> Json:
    return {"role": message.role, "content": message.content}


def _first_choice(value: Any) -> Json:
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        seen = fields.seen(value if choices is None else choices)
        raise Trouble("bad_reply", f"saw {seen}, expected `choices` with an answer in it", again=True)
    return choices[0]


def _text(content: Any) -> str:
    """The text of a message: itself, or the texts of its parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    try:
        return fields.clean(content, "choices[0].message.content")
    except FieldError as error:
        raise Trouble("bad_reply", f"`{error.field}`: {error.message}", again=True) from error


def _counted(text: str, usage: Any, asked: Sequence[Message], *, truncated: bool) -> Reply:
    """The reply with its tokens: as the server counted them, or reckoned where it says nothing or nonsense."""
    counts = usage if isinstance(usage, dict) else {}
    prompt, output = (_count(counts.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    if prompt is not None and output is not None and prompt > 0:
        return Reply(text, truncated, prompt, output, estimated=False)
    characters = sum(len(message.content) for message in asked)
    return Reply(text, truncated, reckoned(characters), reckoned(len(text)), estimated=True)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
