"""Answers that were cut off: inside a code block, inside JSON, or in the middle of a sentence.

The first two are certain. A cut sentence is a judgement: the answer is long, has whole sentences, and its last line is
prose that ends on a word or a comma; lists, headings, tables, verses, signatures and code end so too, and are let be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field

from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import answer_of
from sartor.types import Example, Frozen, Text

SUMMARY = "drops answers that were cut off in code, in JSON or in a sentence"
REASONS = ("open_code", "open_json", "cut_sentence")
SELECTS = False
WHOLE = False

_FENCE = re.compile(r"^[ \t>]{0,8}(```+|~~~+)", re.MULTILINE)
_SENTENCES = re.compile(r"[.!?](?:[\"')\]]*)\s+\S")
_PROSE_END = re.compile(r"[\w,;–—-]\Z")
_NO_PROSE = re.compile(r"^\s*(?:[-*+•#>|=]|\d+[.)]|\||\$|@|https?://|[\w ]{1,30}:\s)|^\s*(?:[-=_*~]\s*){3,}$")
_SPACELESS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]\Z")
#: Words of a last line: fewer are a heading, a name or a closing word.
_FEWEST_WORDS = 6
#: Words after which no sentence ends.
_MIDWAY = re.compile(
    r"\b(?:the|a|an|of|and|or|to|in|with|for|by|from|that|which|as|is|are|der|die|das|ein|eine|und|oder|mit|von|zu|le|la|les|un"
    r"|une|et|ou|de|des|du|el|los|las|y|o|con|il|lo|e|di|che)\Z",
    re.IGNORECASE,
)


class Config(Frozen):
    action: Literal["drop", "report"] = Field(default="drop", description="drop the row, or only tell")
    sentences: bool = Field(default=True, description="also judge whether a sentence was cut")
    shortest: int = Field(default=200, ge=0, description="characters of an answer whose last sentence is judged")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    for example in rows:
        answer = answer_of(example).rstrip()
        reason, detail = _cut(answer, config) if not isinstance(example, Text) else ("", "")
        if not reason:
            yield kept(example)
        elif config.action == "drop":
            yield dropped(example, reason, detail)
        else:
            yield kept(example, entry_of(example, "flagged", reason, detail))


def _cut(answer: str, config: Config) -> tuple[str, str]:
    """Why an answer seems cut off, and how one sees it; nothing where it seems whole."""
    if _open_fence(answer):
        return "open_code", "a code block is opened and never closed"
    if answer[:1] in ("{", "[") and (depth := _depth(answer)):
        return "open_json", f"{depth} brackets are still open" if depth > 1 else "a bracket is still open"
    if config.sentences and len(answer) >= config.shortest and _in_a_sentence(answer):
        return "cut_sentence", f"{len(answer):,} characters end without an end of a sentence"
    return "", ""


def _open_fence(answer: str) -> bool:
    """Whether the last fence opens a block: a block is closed by a fence of its kind, at least as long."""
    fence = ""
    for found in _FENCE.findall(answer):
        if not fence:
            fence = found
        elif found.startswith(fence):
            fence = ""
    return bool(fence)


def _depth(answer: str) -> int:
    """Brackets of JSON that are open at the end; 0 where it is none: a bracket closes another kind, or text follows."""
    open_brackets: list[str] = []
    for token in re.finditer(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[\[\]{}]', answer, re.DOTALL):
        mark = token[0]
        if mark in "[{":
            open_brackets.append("]" if mark == "[" else "}")
        elif mark in "]}":
            if not open_brackets or open_brackets.pop() != mark:
                return 0
            if not open_brackets:
                return 0
    return len(open_brackets) if re.match(r"[\[{]\s*(?:[\"\d\[{\]}tfn-]|\Z)", answer) else 0


def _in_a_sentence(answer: str) -> bool:
    last = answer.rpartition("\n")[2]
    if _PROSE_END.search(answer) is None or _SPACELESS.search(answer) or _NO_PROSE.search(last):
        return False
    if (
        "```" in answer
        or "://" in last.rpartition(" ")[2]
        or len(last.split()) < _FEWEST_WORDS
        or len(_SENTENCES.findall(answer)) < 2
    ):
        return False
    lines = [line for line in answer.splitlines() if line.strip()]
    unended = sum(_PROSE_END.search(line.rstrip()) is not None for line in lines[:-1])
    habit = len(lines) > 2 and unended * 2 > len(lines) - 1  # verses, or somebody who writes no full stops
    return not habit or _MIDWAY.search(answer) is not None
