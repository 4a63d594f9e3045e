"""Markdown as it is; the fields that stand before it (front matter) are read and taken off."""

from __future__ import annotations

import re

from sartor.extract import Extracted, encodings
from sartor.extract.front_matter import front_matter

SUMMARY = "Markdown; front matter gives title, language and licence"
MEDIA_TYPES: tuple[str, ...] = ("text/markdown", "text/x-markdown")
SUFFIXES: tuple[str, ...] = (".md", ".markdown", ".mdx", ".qmd")

_HEADING = re.compile(r"^#[ \t]++(.*)$|^(\S[^\n]*+)\n=+[ \t]*$", re.MULTILINE)
#: What may close a heading.
_CLOSING = " \t#"


def extract(content: bytes, charset: str = "") -> Extracted:
    """The text, and the title from front matter or the first heading.

    Raises:
        NotTaken: it is no text.
    """
    text, notes = encodings.decode(content, charset)
    fields, body = front_matter(encodings.lines(text))
    headings = (under or after.rstrip(_CLOSING) for after, under in map(re.Match.groups, _HEADING.finditer(body)))
    title = fields.get("title") or next(filter(None, headings), "")
    language = fields.get("language", "")
    return Extracted(
        body,
        title=title,
        licence=fields.get("license", ""),
        about={"language": language} if language else {},
        notes=notes,
    )
