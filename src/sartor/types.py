"""The nouns that flow through the whole house: frozen data, no behaviour beyond reading itself.

What is written to disk is a pydantic model; what lives in hot code is a frozen dataclass.

Shape suffixes: T tokens of a flat batch · S segments (one rendered example each) · N supervised positions (weight ≠ 0).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

if TYPE_CHECKING:
    import numpy as np
    import torch

Role = Literal["system", "developer", "user", "assistant", "tool"]
Json = dict[str, Any]

#: What a base is by its architecture, and what it is used for: an encoder chooses among labels or gives embeddings.
Kind = Literal["decoder", "encoder", "encoder_decoder"]
Form = Literal["decoder", "classifier", "embedder", "seq2seq"]

#: Ids from here on are labels, not tokens: no vocabulary is as large.
FIRST_LABEL = 2**30


class Frozen(BaseModel):
    """A value that is written to disk: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(Frozen):
    """One call of a function by the assistant. `arguments` is the parsed object, never a JSON string."""

    name: str
    arguments: Json
    id: str = ""


class Message(Frozen):
    """One turn. `weight` 0 on an assistant turn means: context only, do not train on it."""

    role: Role
    content: str = ""
    reasoning: str = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    weight: float = 1.0


#: Told how much is done, and of how much; 0 where nobody knows.
Progress = Callable[[int, int], None]

#: Conversations to vectors of length 1, as rows of a matrix: how the base encoder sees them.
Embed = Callable[[Sequence[Sequence[Message]]], Any]


class Source(Frozen):
    """Where a row came from: the file as its user named it, and the 1-based line on which the row starts.

    Where rows of a JSON array share a line, the whole file counts 1-based elements instead, so that ids stay different.
    `origin` is the id of what it was made from, an example or a document: a family never stands on both sides of a
    split.
    """

    file: str
    line: int
    origin: str = ""

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}"


class Chat(Frozen):
    """A conversation that ends on an assistant turn. That last turn is the target; all before it is the prompt."""

    kind: Literal["chat"] = "chat"
    source: Source
    messages: tuple[Message, ...]
    tools: tuple[Json, ...] = ()

    @property
    def id(self) -> str:
        return self.source.id

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def target(self) -> str:
        return self.messages[-1].content

    @property
    def digest(self) -> str:
        """Digest of the content without the source: equal for exact duplicates."""
        return digest_of([message.model_dump() for message in self.messages], list(self.tools))

    @property
    def prompt_digest(self) -> str:
        """Digest of what the model is asked: rows that share it must never fall on both sides of a split."""
        return digest_of([message.model_dump() for message in self.prompt], list(self.tools))


class Text(Frozen):
    """Running text: every token is trained, and the end-of-text token after it."""

    kind: Literal["text"] = "text"
    source: Source
    text: str

    @property
    def id(self) -> str:
        return self.source.id

    @property
    def digest(self) -> str:
        return digest_of(self.text)

    @property
    def prompt_digest(self) -> str:
        return self.digest


class _Rated(Frozen):
    """A prompt whose answers somebody compared or rated."""

    source: Source
    prompt: tuple[Message, ...]
    tools: tuple[Json, ...] = ()

    @property
    def id(self) -> str:
        return self.source.id

    @property
    def prompt_digest(self) -> str:
        return digest_of([message.model_dump() for message in self.prompt], list(self.tools))


class Pair(_Rated):
    """Two answers to one prompt, of which `chosen` is the better one."""

    kind: Literal["pair"] = "pair"
    chosen: Message
    rejected: Message

    @property
    def digest(self) -> str:
        return digest_of([*self.prompt, self.chosen, self.rejected], list(self.tools))


class Unpaired(_Rated):
    """One answer that somebody liked, or did not."""

    kind: Literal["unpaired"] = "unpaired"
    answer: Message
    good: bool

    @property
    def digest(self) -> str:
        return digest_of([*self.prompt, self.answer], self.good, list(self.tools))


Example = Chat | Text | Pair | Unpaired
EXAMPLE: TypeAdapter[Example] = TypeAdapter(Annotated[Example, Field(discriminator="kind")])


class Document(Frozen):
    """A text that somebody wrote for readers: what examples are built from.

    `place` is where it was found: a path, an archive and a path in it (`a.zip!docs/b.md`), or a URL; `digest` SHA-256
    of its bytes there; `time` when it was fetched, ISO 8601 in UTC; `licence` and `about` (title, headers, revision …)
    what the place says of it.
    """

    place: str
    text: str
    title: str = ""
    media_type: str = "text/plain"
    digest: str
    time: str
    licence: str = ""
    about: Json = Field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.place


class LedgerEntry(Frozen):
    """What happened to one row that is not used as it came. Rows in = kept + dropped, each with its line and reason.

    `flagged`: it is kept as it is, and somebody should look at it.
    """

    action: Literal["dropped", "changed", "flagged"]
    file: str
    line: int
    field: str = ""
    reason: str
    detail: str = ""


class Score(Frozen):
    """What a metric says of one answer: `value` in [0, 1], higher is better."""

    value: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """A flat, packed micro-batch without padding: segments one after the other, targets already shifted.

    tokens_T int64 · positions_T int64, from 0 in each segment · targets_T int64: the next token of the segment ·
    weights_T float32, signed; 0 = not trained · offsets_S1 int32: segment starts, and the end (S + 1 values) ·
    rows: the example id of each segment.
    """

    tokens_T: np.ndarray
    positions_T: np.ndarray
    targets_T: np.ndarray
    weights_T: np.ndarray
    offsets_S1: np.ndarray
    rows: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.tokens_T)

    @property
    def num_supervised(self) -> int:
        return int((self.weights_T != 0).sum())

    @property
    def longest_segment(self) -> int:
        """Tokens of the longest segment."""
        return int((self.offsets_S1[1:] - self.offsets_S1[:-1]).max())


@dataclass(frozen=True, slots=True)
class TokenStats:
    """What a backend tells an objective, at supervised positions only, in batch order.

    logprobs_N float32, differentiable: log-probability of each target · weights_N float32 · segments_N int64: the
    segment of each position · embeddings_2SD: of each segment's question and answer, of length 1, differentiable; only
    where an objective `NEEDS` them, which then has no log-probabilities · apart_N float32, differentiable: how far the
    distributions of two passes differ, where a tuning method couples them (`Hooks.couple`): for the backend.
    """

    logprobs_N: torch.Tensor
    weights_N: torch.Tensor
    segments_N: torch.Tensor
    embeddings_2SD: torch.Tensor | None = None
    apart_N: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """What one micro-batch adds to a step: everything a sum, so that the split into micro-batches cannot matter."""

    loss: float
    num_tokens: int
    num_supervised: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            loss=self.loss + other.loss,
            num_tokens=self.num_tokens + other.num_tokens,
            num_supervised=self.num_supervised + other.num_supervised,
            metrics={name: value + other.metrics[name] for name, value in self.metrics.items()},
        )


def digest_of(*values: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of the values: sorted keys, no spaces, UTF-8."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no canonical JSON")
