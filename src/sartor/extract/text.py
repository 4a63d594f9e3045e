"""Plain text as it is; only line ends are made the same."""

from __future__ import annotations

from sartor.extract import Extracted, encodings

SUMMARY = "plain text"
MEDIA_TYPES: tuple[str, ...] = ("text/plain",)
SUFFIXES: tuple[str, ...] = (".txt", ".text", ".rst", ".adoc", ".asc", ".org")


def extract(content: bytes, charset: str = "") -> Extracted:
    """The text.

    Raises:
        NotTaken: it is no text.
    """
    text, notes = encodings.decode(content, charset)
    return Extracted(encodings.lines(text), notes=notes)
