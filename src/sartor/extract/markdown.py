"""Markdown as it is; the fields that stand before it (front matter) are read and taken off."""

from __future__ import annotations

import re

from sartor.extract import Extracted, encodings
from sartor.extract.front_matter import front_matter

SUMMARY = "Markdown; front matter gives title, language and licence"
MEDIA_TYPES: tuple[str, ...] = ("text/markdown", "text/x-markdown")
SUFFIXES: tuple[str, ...] = (".md", ".markdown", ".mdx", ".qmd")

_HEADING = re.compile(r"^#[ \t]+(.+?)[ \t#]*$|^(\S[^\n]*)\n=+[ \t]*$", re.MULTILINE)


def extract(content: bytes, charset: str = "") -> Extracted:
    """The text, and the title from front matter or the first heading.

    Raises:
        NotTaken: it is no text.
    """
    text, notes = encodings.decode(content, charset)
    fields, body = front_matter(encodings.lines(text))
    heading = _HEADING.search(body)
    title = fields.get("title") or (next(part for part in heading.groups() if part) if heading else "")
    language = fields.get("language", "")
    return Extracted(
        body,
        title=title,
        licence=fields.get("license", ""),
        about={"language": language} if language else {},
        notes=notes,
    )
