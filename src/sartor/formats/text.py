"""Running text: every token of it is trained."""

from __future__ import annotations

from sartor.errors import FieldError
from sartor.formats import Parsed, Written, fields
from sartor.formats.keys import TALK, lacks
from sartor.types import Example, Json, Source, Text

WRITES = True
SUMMARY = "text: running text, to go on learning a language or a field from"
FIELDS: tuple[str, ...] = ("text",)
SAMPLE: Json = {"text": "A tailor measures twice and cuts once."}


def matches(row: Json) -> bool:
    """Beside a label, `text` is what is labelled, and not the running text to learn."""
    return "text" in row and lacks(row, "labels", *TALK)


def parse(row: Json, source: Source) -> Parsed:
    """The text, exactly.

    Raises:
        FieldError: it is missing, blank, or not a text.
    """
    return Parsed(Text(source=source, text=fields.filled(row, "text")))


def write(example: Example) -> Written:
    """The text.

    Raises:
        FieldError: the example is no running text.
    """
    if not isinstance(example, Text):
        raise FieldError("messages", seen=f"an example of the kind {example.kind}", expected="running text")
    return Written({"text": example.text})
