"""Examples that answer one question in different ways. Which answer is right, the rows cannot say; a majority may hint.

Chats contradict each other by another answer to the same prompt; pairs, when one prefers what the other rejects;
unpaired answers, when one and the same is called good and bad. Case and spacing make no other answer.

The ledger names rows and quotes none: what a later cleaner masks must not stand there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from sartor.data import near
from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import question_of
from sartor.types import Chat, Example, Frozen, Pair, Text, digest_of

SUMMARY = "one question, different answers"
REASONS = ("contradiction",)
SELECTS = False
WHOLE = True

#: Different answers that a detail names.
NAMED = 3


class Config(Frozen):
    action: Literal["report", "drop", "majority"] = Field(
        default="report",
        description="tell of them, drop all of them, or keep those with the answer that most have, none at a tie",
    )
    near_questions: bool = Field(default=False, description="questions that are nearly the same count as one")
    threshold: float = Field(
        default=0.9, ge=0.5, le=1.0, description="the least Jaccard index of the runs of words of two near questions"
    )


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    groups = _groups(rows, config.threshold) if config.near_questions else {}
    claims_N2 = np.array([_claim(example, groups) for example in rows], np.uint64).reshape(-1, 2)
    different = np.unique(claims_N2, axis=0)[:, 0]
    things, counts = np.unique(different, return_counts=True)
    torn_N = np.isin(claims_N2[:, 0], things[counts > 1])
    about: dict[int, _Claims] = defaultdict(_Claims)
    for example, (thing, says), torn in zip(rows, claims_N2.tolist(), torn_N, strict=True):
        if torn:
            about[thing].add(says, example)
    for example, (thing, says), torn in zip(rows, claims_N2.tolist(), torn_N, strict=True):
        yield _outcome(example, about[thing], says, config) if torn else kept(example)


class _Claims:
    """What is said about one thing: how many rows say it, and the first of them."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.first: dict[int, str] = {}

    def add(self, says: int, example: Example) -> None:
        self.counts[says] += 1
        self.first.setdefault(says, example.id)

    @property
    def majority(self) -> int | None:
        """What most rows say; None at a tie."""
        (says, count), *others = self.counts.most_common(2)
        return None if others and others[0][1] == count else says

    def told(self) -> str:
        """Where each answer stands first, the most frequent one before the others."""
        named = [f"as in {self.first[says]} × {count:,}" for says, count in self.counts.most_common(NAMED)]
        more = len(self.counts) - len(named)
        return "answered " + "; ".join([*named, f"{more:,} more"] if more else named)


def _outcome(example: Example, claims: _Claims, says: int, config: Config) -> Outcome:
    if config.action == "report":
        return kept(example, entry_of(example, "flagged", "contradiction", claims.told()))
    if config.action == "majority" and says == claims.majority:
        return kept(example)
    return dropped(example, "contradiction", claims.told())


def _groups(rows: Iterable[Example], threshold: float) -> dict[str, str]:
    """The digest of each prompt, to that of the first one in its group."""
    asked = {example.prompt_digest: question_of(example) for example in rows}
    digests = list(asked)
    return {
        digest: digests[first]
        for digest, first in zip(digests, near.groups(list(asked.values()), threshold=threshold), strict=True)
    }


def _claim(example: Example, groups: dict[str, str]) -> tuple[int, int]:
    """What an example is about, and what it says of it, as 64-bit digests."""
    digest = example.prompt_digest
    asked = groups.get(digest, digest)
    if isinstance(example, Text):
        return _digest(asked), 0
    if isinstance(example, Chat):
        last = example.messages[-1]
        return _digest(asked), _digest(_plain(last.content), last.tool_calls)
    if isinstance(example, Pair):
        better, worse = _plain(example.chosen.content), _plain(example.rejected.content)
        return _digest(asked, sorted((better, worse))), _digest(better)
    return _digest(asked, _plain(example.answer.content)), int(example.good)


def _digest(*values: Any) -> int:
    return int(digest_of(*values)[:16], 16)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
