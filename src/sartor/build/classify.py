"""Labels from a table: what a text is, answered with one of a few words. No model is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sartor.build.columns import column, filled, written
from sartor.errors import FieldError
from sartor.formats.fields import seen
from sartor.types import Chat, Frozen, Json, Message, Source

SUMMARY = "a label for each row of a table, from its columns"
READS: Literal["documents", "chunks", "rows"] = "rows"


class Config(Frozen):
    """Which columns are what."""

    input: str = Field(description="The column with the text, or a template of several: 'Subject: {subject}\\n{body}'.")
    label: str = Field(description="The column with the label.")
    labels: dict[str, str] = Field(
        default={}, description="A value of that column -> the word to answer. Other values are then refused."
    )
    instruction: str = Field(default="", description="What stands before each text; {labels} lists the words.")


def example(row: Json, source: Source, config: Config) -> Chat:
    value = written(column(row, config.label), config.label).strip()
    if not value:
        raise FieldError(config.label, seen=seen(row[config.label]), expected="a label")
    if config.labels and value not in config.labels:
        raise FieldError(config.label, seen=seen(value), expected=f"one of {', '.join(config.labels)}")
    words = ", ".join(dict.fromkeys(config.labels.values()))
    asked = filled(config.input, row)
    if config.instruction:
        asked = f"{config.instruction.replace('{labels}', words)}\n\n{asked}"
    answer = config.labels.get(value, value)
    return Chat(
        source=source, messages=(Message(role="user", content=asked), Message(role="assistant", content=answer))
    )
