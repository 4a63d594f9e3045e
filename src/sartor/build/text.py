"""Running text from documents: each chunk as it stands, to go on with after tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from sartor.build import Problem
from sartor.build import chunks as cutting
from sartor.build.chunks import Chunk
from sartor.types import Example, Frozen, Text

SUMMARY = "running text, each chunk of a document as it stands"
READS: Literal["documents", "chunks", "rows"] = "chunks"


class Config(Frozen):
    """How documents are cut."""

    chunks: cutting.Config = Field(default_factory=cutting.Config, description="How documents are cut.")


def examples(chunk: Chunk, config: Config) -> Iterator[Example | Problem]:
    yield Text(source=chunk.source, text=chunk.text)
