"""What a round teaches the next one: a reviewer's own words, and what the checks met most often.

Words of a model never become instructions: of what was made only the kind of its fault is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: A prompt has room for so many of a reviewer's reasons, the latest; and for so many faults, the most frequent.
MOST_REASONS, MOST_FAULTS = 8, 4
#: Characters of one reason.
LONGEST = 240

#: What to say of a fault that the checks found, by its reason.
ADVICE: Mapping[str, str] = {
    "duplicate": "it repeated an example that is there already",
    "near_duplicate": "it said nearly the same as an example that is there already",
    "too_near_seed": "it was too like the example that it came from",
    "too_far": "it had nothing to do with the examples",
    "language": "it was in another language than the examples",
    "too_short": "it was much shorter than the examples",
    "too_long": "it was much longer than the examples",
    "cut_off": "it was too long and broke off: be brief",
    "form": "its answer had another form than the answers of the examples",
    "label": "its answer was none of the answers that the examples have",
    "not_json": "it was no JSON object: write just that, with nothing around it",
    "wrong_keys": "it had not the keys that were asked for",
    "same_answer": "its answer was the old one again",
    "judge": "its answer was judged wrong or of little use",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something was rejected: `words` are a reviewer's, empty where a check rejected it by its `reason`."""

    reason: str = ""
    words: str = ""


def lessons_of(faults: Iterable[Fault]) -> tuple[str, ...]:
    """Faults in the order in which they came up, as lines for the next prompt."""
    listed = list(faults)
    words = [" ".join(fault.words.split())[:LONGEST] for fault in reversed(listed) if fault.words.strip()]
    counts = Counter(fault.reason for fault in listed if not fault.words.strip() and fault.reason in ADVICE)
    frequent = sorted(counts, key=lambda reason: (-counts[reason], reason))[:MOST_FAULTS]
    latest = list(dict.fromkeys(words))[:MOST_REASONS]
    return tuple(f"- {line}" for line in (*reversed(latest), *(ADVICE[reason] for reason in frequent)))
