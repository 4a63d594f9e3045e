"""Running text: every token of it is trained."""

from __future__ import annotations

from sartor.formats import Parsed, fields
from sartor.types import Json, Source, Text

SUMMARY = "text: running text, to go on learning a language or a field from"
FIELDS: tuple[str, ...] = ("text",)
SAMPLE: Json = {"text": "A tailor measures twice and cuts once."}

#: Beside one of these, `text` is the whole row rendered once more (as in tatsu-lab/alpaca), or the input of a label.
_OTHERS = frozenset(
    {"instruction", "output", "messages", "prompt", "completion", "chosen", "rejected", "label", "labels"}
)


def matches(row: Json) -> bool:
    return "text" in row and not _OTHERS & row.keys()


def parse(row: Json, source: Source) -> Parsed:
    """The text, exactly.

    Raises:
        FieldError: it is missing, blank, or not a text.
    """
    return Parsed(Text(source=source, text=fields.filled(row, "text")))
