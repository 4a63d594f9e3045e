"""Running text: every token of it is trained."""

from __future__ import annotations

from sartor.formats import Parsed, fields
from sartor.formats.keys import TALK, lacks
from sartor.types import Json, Source, Text

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
