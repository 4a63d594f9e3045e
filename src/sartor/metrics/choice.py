"""The answer states the right one of several labels, perhaps in a sentence. Case and white space never matter.

What counts as stated: the whole answer or its first line is a label, but for quotes, emphasis and a full stop around
it. Failing that, the one label that stands in the answer as a whole word or phrase. Longer labels are looked for first
and taken out, so that "not urgent" is not read as "urgent"; "non-urgent" is not read as "urgent" either. An answer
that names two labels states none. Beware of labels that are common words: "It is a pity" states the label "A".
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pydantic import Field

from sartor import stats
from sartor.metrics.normalise import UNSPACED, WORDS, normalised
from sartor.types import Chat, Frozen, Score

SUMMARY = "1 if the answer states the right label and no other"

#: What people and models put around a label. No + or #, which belong to labels such as C++.
AROUND = " .,;:!?\"'`*_()[]“”‘’«»。，：！？「」"

#: A character that continues a word: a letter or digit of a script with spaces, or a mark on one (accents, Hebrew,
#: Arabic, Indic vowel signs), which Python's \w leaves out.
LETTER = rf"(?:[^\W_{UNSPACED}]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff])"

#: Between two letters these make one word: non-urgent, not_urgent, urgent's.
JOINER = "[-_'’]"

reduce = stats.summarise


class Config(Frozen):
    """The labels to choose from."""

    options: tuple[str, ...] = Field(
        default=(), description="all labels; the plan fills them from the training split; empty: only the target counts"
    )


def score(config: Config, example: Chat, output: str) -> Score:
    """1 if the answer states the target, 0 if it states another label, several or none, which the detail says."""
    expected = normalised(example.target, WORDS)
    labels = {normalised(option, WORDS): option for option in config.options} | {expected: example.target}
    stated = _stated(labels, output)
    if stated == [expected]:
        return Score(value=1.0)
    named = " and ".join(repr(labels[label]) for label in stated)
    if len(stated) == 1:
        return Score(value=0.0, detail=f"states {named}, expected {example.target!r}")
    if stated:
        return Score(value=0.0, detail=f"states {len(stated)} labels: {named}, expected only {example.target!r}")
    return Score(value=0.0, detail=f"states no label, expected {example.target!r}")


def _stated(labels: Collection[str], output: str) -> list[str]:
    """The normalised labels that the answer states: one if all is well."""
    whole = normalised(output, WORDS)
    lines = output.strip().splitlines() or [""]
    for text in (whole, normalised(lines[0], WORDS)):
        for candidate in (text, text.strip(AROUND) or text):
            if candidate in labels:
                return [candidate]
    stated = []
    for label in sorted(filter(None, labels), key=lambda label: (-len(label), label)):
        rest = _alone(label).sub("\n", whole)  # a line break is in no normalised label, so nothing matches across it
        if rest != whole:
            stated.append(label)
        whole = rest
    return stated


def _alone(label: str) -> re.Pattern[str]:
    """Finds the label where it is not part of a longer word."""
    before = rf"(?<!{LETTER})(?<!{LETTER}{JOINER})" if re.match(LETTER, label) else ""
    after = rf"(?!{LETTER})(?!{JOINER}{LETTER})" if re.match(LETTER, label[-1]) else ""
    return re.compile(before + re.escape(label) + after)
