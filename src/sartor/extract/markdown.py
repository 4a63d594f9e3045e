"""Markdown as it is; the fields that stand before it (front matter) are read and taken off."""

from __future__ import annotations

import re

from sartor.extract import Extracted, encodings

SUMMARY = "Markdown; front matter gives title, language and licence"
MEDIA_TYPES: tuple[str, ...] = ("text/markdown", "text/x-markdown")
SUFFIXES: tuple[str, ...] = (".md", ".markdown", ".mdx", ".qmd")

#: Longest front matter, in characters: cards of data sets with many configurations reach 50,000.
FRONT_CHARACTERS = 200_000
_FRONT = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
#: A field, with its value on the line, or a list of one below it. Enough for what we read; it is no YAML parser, since
#: YAML of strangers needs none of YAML's powers.
_FIELD = re.compile(r"^(title|licen[cs]e|lang|language)[ \t]*:[ \t]*(?:\n[ \t]*-[ \t]*)?(.*)$", re.MULTILINE)
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


def front_matter(text: str) -> tuple[dict[str, str], str]:
    """Title, license and language as the front matter has them, and the text after it."""
    found = _FRONT.match(text[:FRONT_CHARACTERS])
    if not found:
        return {}, text
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(found[1]):
        known = {"licence": "license", "lang": "language"}.get(name, name)
        plain = value.strip().strip("\"'[]").strip()
        if plain:
            fields.setdefault(known, plain)
    return fields, text[found.end() :].lstrip("\n")
