"""Texts that repeat themselves: the rules of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1), over prose.

They were made for pages, so texts of fewer than `fewest_words` words are not judged; code is left out, because it
repeats itself by right. Where a language is written without spaces, a character counts as a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import Field

from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import texts_of
from sartor.data.finding import code
from sartor.types import Example, Frozen

SUMMARY = "drops rows whose text repeats lines, paragraphs or word groups (Gopher's rules)"
REASONS = ("repeated_lines", "repeated_paragraphs", "repeated_words")
SELECTS = False
WHOLE = False

#: Shares of the characters that the most frequent group of n words may make up.
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
#: Shares of the characters that stand in any repeated group of n words.
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
#: Shares of lines and of paragraphs that stand there before, by number and by characters.
LINES, PARAGRAPHS, CHARACTERS = 0.30, 0.30, 0.20
#: Thai to Khmer, kana, Han: scripts that put no space between words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


class Config(Frozen):
    action: Literal["drop", "report"] = Field(default="drop", description="drop the row, or only tell")
    fewest_words: int = Field(default=50, ge=1, description="words of a text that is judged")
    allowance: float = Field(default=1.0, gt=0, description="all limits times this: 1.5 lets half as much more through")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    for example in rows:
        told = next(((found.field, *why) for found in texts_of(example) if (why := _repeats(found.text, config))), None)
        if told is None:
            yield kept(example)
            continue
        field, reason, detail = told
        if config.action == "drop":
            yield dropped(example, reason, detail, field)
        else:
            yield kept(example, entry_of(example, "flagged", reason, detail, field))


def _repeats(text: str, config: Config) -> tuple[str, str] | None:
    """The first rule that a text breaks: its reason, and the share with its limit."""
    prose = code.without_code(text)
    words = _WORD.findall(prose)
    if len(words) < config.fewest_words:
        return None
    for reason, what, share, limit in _shares(prose, words):
        if share > limit * config.allowance:
            return reason, f"{what}: {share:.0%}, at most {limit * config.allowance:.0%}"
    return None


def _shares(prose: str, words: Sequence[str]) -> Iterator[tuple[str, str, float, float]]:
    lines = [line.strip() for line in prose.splitlines() if line.strip()]
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", prose) if part.strip()]
    for reason, parts, limit in (("repeated_lines", lines, LINES), ("repeated_paragraphs", paragraphs, PARAGRAPHS)):
        what = reason.removeprefix("repeated_")
        by_number, by_characters = _again(parts)
        yield reason, f"{what} that stand there before", by_number, limit
        yield reason, f"characters in {what} that stand there before", by_characters, CHARACTERS
    size = sum(map(len, words))
    for length, limit in TOP.items():
        share = min(1.0, _top(words, length) / size)
        yield "repeated_words", f"characters in the most frequent {length} words", share, limit
        if not share:  # what does not repeat does not repeat as a part of more
            return
    for length, limit in REPEATED.items():
        share = _repeated(words, length) / size
        yield "repeated_words", f"characters in {length} words that stand there before", share, limit
        if not share:
            return


def _again(parts: Sequence[str]) -> tuple[float, float]:
    """The share of parts that stand there before, by number and by characters."""
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(again) / max(1, len(parts)), sum(map(len, again)) / max(1, sum(map(len, parts)))


def _top(words: Sequence[str], length: int) -> int:
    """Characters in all places of the most frequent group, if it is there more than once."""
    counts = Counter(zip(*(words[start:] for start in range(length)), strict=False))
    return max((count * sum(map(len, group)) for group, count in counts.items() if count > 1), default=0)


def _repeated(words: Sequence[str], length: int) -> int:
    """Characters of words in groups that stand there before; a word in several of them counts once."""
    seen: set[tuple[str, ...]] = set()
    total, counted = 0, 0
    for start in range(len(words) - length + 1):
        group = tuple(words[start : start + length])
        if group in seen:
            total += sum(len(word) for word in words[max(start, counted) : start + length])
            counted = start + length
        seen.add(group)
    return total
