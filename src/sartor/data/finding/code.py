"""Which parts of a text are code, and whether mark-up is what a talk is about: there nothing is tidied up."""

from __future__ import annotations

import re
from collections.abc import Callable

#: Fenced blocks (an open one goes to the end), inline code, and blocks that Markdown indents.
CODE = re.compile(
    r"(?:^|\n)[ \t]*(```|~~~).*?(?:\n[ \t]*\1|\Z)|`[^`\n]+`|(?:(?<=\n\n)|\A)(?:(?: {4}|\t)[^\n]*\n?)+", re.DOTALL
)
#: Words of someone who asks about mark-up. A program shows itself in the answer; the word `code` may be anything.
_ASKED = re.compile(
    r"\b(?:x?html5?|xml|svg|jsx|css|java ?script|php|mark-?up|markdown|web ?(?:page|site)|html? ?tags?|tags|source code"
    r"|regex(?:es|p)?|regular expression|the dom|escap(?:e|ed|ing)|entit(?:y|ies))\b|\bthe\W+\w+\W+tag\b",
    re.IGNORECASE,
)
#: A page, or lines of a program: declarations, brackets at the end of a line.
_WRITTEN = re.compile(
    r"<!DOCTYPE|<\?(?:php|xml)|<(?:html|head|script|style|svg|template)\b|\bclassName=|\{\{|\{%"
    r"|^[ \t]*(?:import|from|def|class|public|private|function|const|let|var|#include|package|using|SELECT)\b"
    r".*[;:({'\"][ \t]*$"
    r"|[{}][ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ENTITY_END = re.compile(r"&#?\w{1,31};\Z")
_MARKS = ("`", "~~~", "    ", "\t")  # without one of them a text has no code that is marked as such


def asks_for_markup(question: str) -> bool:
    return _ASKED.search(question) is not None


def is_code(text: str) -> bool:
    """Whether a text as a whole is a program or a page."""
    return _WRITTEN.search(text) is not None or any(map(_is_statement, text.splitlines() if ";" in text else ()))


def _is_statement(line: str) -> bool:
    """A semicolon at the end of a line that assigns or calls, and is none of an entity."""
    line = line.rstrip()
    return line.endswith(";") and not {"=", "("}.isdisjoint(line) and _ENTITY_END.search(line[-34:]) is None


def outside_code(text: str, edit: Callable[[str], str]) -> str:
    """The text with what is no code edited."""
    if not any(mark in text for mark in _MARKS):
        return edit(text)
    parts, end = [], 0
    for match in CODE.finditer(text):
        parts += [edit(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, edit(text[end:])])


def without_code(text: str) -> str:
    """The text with a blank in place of code."""
    return CODE.sub(" ", text) if any(mark in text for mark in _MARKS) else text
