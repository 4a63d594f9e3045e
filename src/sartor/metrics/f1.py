"""How many words the answer and the target share: the token F1 of SQuAD (Rajpurkar et al. 2016), for any language.

Against the original: punctuation is what Unicode calls so, in all scripts; scripts without spaces are compared
character by character; and English articles count, since they do not exist elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from sartor import stats
from sartor.metrics.normalise import UNSPACED, WORDS, normalised
from sartor.types import Chat, Frozen, Score

SUMMARY = "share of words in common with the target (F1), from 0 to 1"

TOKEN = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")

reduce = stats.summarise


class Config(Frozen):
    """No options."""


def score(config: Config, example: Chat, output: str) -> Score:
    """F1 of the two multisets of tokens, their order ignored. Two empty texts agree: 1."""
    seen, expected = Counter(_tokens(output)), Counter(_tokens(example.target))
    if seen == expected:
        return Score(value=1.0)
    num_common = (seen & expected).total()
    detail = f"{num_common} words in common, of {seen.total()} in the answer and {expected.total()} in the target"
    return Score(value=2 * num_common / (seen.total() + expected.total()), detail=detail)


def _tokens(text: str) -> list[str]:
    """Words without punctuation and case. A text of nothing but punctuation keeps it: "?" is not an empty answer."""
    folded = normalised(text, WORDS)
    bare = "".join(character for character in folded if not unicodedata.category(character).startswith("P"))
    return TOKEN.findall(bare) or TOKEN.findall(folded)
