"""Fields from a text, answered as JSON: the text is in some columns, the fields are in others. No model is asked."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from sartor.build.columns import column, filled
from sartor.errors import FieldError
from sartor.formats import fields
from sartor.types import Chat, Frozen, Json, Message, Source

SUMMARY = "fields of a text as JSON, for each row of a table, from its columns"
READS: Literal["documents", "chunks", "rows"] = "rows"
INSTRUCTION = (
    "Read the text and answer with a JSON object with the keys {keys}. A key of which it says nothing is null."
)


class Config(Frozen):
    """Which columns are what."""

    input: str = Field(description="The column with the text, or a template of several: 'Subject: {subject}\\n{body}'.")
    fields: dict[str, str] = Field(min_length=1, description="A key of the answer -> the column that it comes from.")
    instruction: str = Field(default=INSTRUCTION, description="What stands before each text; {keys} lists the keys.")


def example(row: Json, source: Source, config: Config) -> Chat:
    found = {key: _value(row, name) for key, name in config.fields.items()}
    if all(value is None for value in found.values()):
        names = ", ".join(config.fields.values())
        raise FieldError(names, seen="nothing in any of them", expected="a value in at least one")
    asked = filled(config.input, row)
    if config.instruction:
        asked = f"{config.instruction.replace('{keys}', ', '.join(config.fields))}\n\n{asked}"
    answer = Message(role="assistant", content=json.dumps(found, ensure_ascii=False))
    return Chat(source=source, messages=(Message(role="user", content=asked), answer))


def _value(row: Json, name: str) -> object:
    """A value as it is; a cell without anything in it is null."""
    value = column(row, name)
    fields.clean_tree(value, name)
    return None if isinstance(value, str) and not value.strip() else value
