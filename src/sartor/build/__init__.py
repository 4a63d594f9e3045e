"""Building examples: from documents with a model's help or without, from tables without. One builder a file.

A file `build/x.py` holds `SUMMARY` (one line for people), `READS`, `Config`, and by what it `READS`

- `documents`, asking a model: `schema(config)`, a JSON Schema of the answers; `question(chunk, config)`, what is asked
  about a chunk; `read(text, chunk, config)`: the examples in an answer, each with the chunk's source, or a `Problem` in
  the place of one. It raises `Unreadable`, and no other error;
- `chunks`, asking nobody: `examples(chunk, config)`;
- `rows`: `example(row, source, config)`, which raises `FieldError`, and no other error.

`Config` of the first two has `chunks`, how documents are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from sartor import names
from sartor.types import Example, Frozen, Json, Message, Source

if TYPE_CHECKING:
    from sartor.build.chunks import Chunk

KIND = "build"
NOT_MEMBERS: frozenset[str] = frozenset({"chunks", "columns", "documents", "tables"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was made and is of no use: a word, and what was seen."""

    reason: str
    detail: str


class Builder(Protocol):
    """What every file of this folder contains."""

    SUMMARY: str
    READS: Literal["documents", "chunks", "rows"]
    Config: type[Frozen]


class AskingBuilder(Builder, Protocol):
    """One that asks a model about each chunk."""

    def schema(self, config: Any) -> Json | None: ...

    def question(self, chunk: Chunk, config: Any) -> tuple[Message, ...]: ...

    def read(self, text: str, chunk: Chunk, config: Any) -> Iterator[Example | Problem]: ...


class ChunkBuilder(Builder, Protocol):
    """One that makes examples of a chunk by itself."""

    def examples(self, chunk: Chunk, config: Any) -> Iterator[Example | Problem]: ...


class RowBuilder(Builder, Protocol):
    """One that makes an example of a row of a table."""

    def example(self, row: Json, source: Source, config: Any) -> Example: ...


def builder(name: str) -> Builder:
    """The builder of that name.

    Raises:
        RecipeError: there is none; the hint offers the nearest.
    """
    return cast("Builder", names.resolve(KIND, name))
