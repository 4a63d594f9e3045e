"""What goes out: models, completions, chunks and usage in OpenAI's shapes."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

from sartor.generate.protocol import FinishReason


class ModelCard(TypedDict):
    """One served name. `parent` is the base of an adapter; the base itself has none."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None


class ModelList(TypedDict):
    """The body of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]


class Usage(TypedDict):
    """Tokens read, tokens computed (the stop token is one of them), and both."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(TypedDict):
    """The one answer to a request."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: FinishReason


class Completion(TypedDict):
    """The body of an answer that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage


class Delta(TypedDict):
    """What a chunk adds."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChunkChoice(TypedDict):
    """The part of the one answer that a chunk carries."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: FinishReason | None


class Chunk(TypedDict):
    """One event of a stream. `usage` is there only when asked for, and null but in the last chunk."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every reply to one request has in common."""

    model: str
    fingerprint: str
    wants_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, text: str, finish: FinishReason, usage: Usage) -> Completion:
        """The whole answer."""
        message: AnswerMessage = {"role": "assistant", "content": text, "refusal": None}
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": usage,
        }

    def chunk(self, delta: Delta, finish: FinishReason | None = None) -> Chunk:
        """A part of the answer."""
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], None)

    def usage_chunk(self, usage: Usage) -> Chunk:
        """The chunk without choices that ends a stream when usage was asked for."""
        return self._chunk([], usage)

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None) -> Chunk:
        chunk: Chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        return {**chunk, "usage": usage} if self.wants_usage else chunk


def usage(num_prompt: int, num_answer: int) -> Usage:
    """Usage from the two counts, in tokens."""
    return {"prompt_tokens": num_prompt, "completion_tokens": num_answer, "total_tokens": num_prompt + num_answer}


def event(value: Any) -> bytes:
    """One server-sent event. ASCII only: some clients split lines at U+2028 too."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n\n"


DONE = b"data: [DONE]\n\n"
