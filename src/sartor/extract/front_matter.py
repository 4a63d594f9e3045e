"""The fields that stand before a text in Markdown, between two lines of dashes: title, language and licence."""

from __future__ import annotations

import re

#: Longest front matter, in characters: cards of data sets with many configurations reach 50,000.
FRONT_CHARACTERS = 200_000
_FRONT = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
#: A field, with its value on the line, or a list of one below it. Enough for what we read; it is no YAML parser, since
#: YAML of strangers needs none of YAML's powers.
_FIELD = re.compile(r"^(title|licen[cs]e|lang|language)[ \t]*:[ \t]*(?:\n[ \t]*-[ \t]*)?(.*)$", re.MULTILINE)


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
