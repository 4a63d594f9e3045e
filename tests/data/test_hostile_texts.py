"""Texts that are made to keep a cleaner busy for ever: long rows of what its expressions begin with, never ended."""

from __future__ import annotations

import pytest

from sartor.data.clean import Context, cleaner

from .rows import talk, text

ONE_BY_ONE = (
    *("encoding", "control_characters", "html", "empty_answers", "refusals", "truncated", "repetition", "length"),
    *("pii", "secrets", "toxicity", "language"),
)
BAITS = (
    "<!--",
    "<a b='",
    "<a b ",
    "&#1",
    "```\n",
    "`",
    "    x\n",
    "\x1b]",
    "\u200d",
    "1",
    "1 ",
    "+1",
    "+49 1",
    "0 1 ",
    "(0",
    "12-",
    "1.",
    "a@",
    "@",
    "a.",
    "a (at) ",
    "<1.2@a>",
    "DE89 ",
    "A1",
    "AB 12 ",
    "2a00:",
    ":",
    "-----BEGIN PRIVATE KEY-----\n",
    "PuTTY-User-Key-File-2: ",
    "password=",
    "token: a1",
    "eyJ",
    "://a:",
    "sk-",
    '{"a": [',
    '"\\',
    "def f",
    "import x ",
    "{ ",
    "; ",
    "\n \n",
    " \t",
    "- - ",
    "privacy policy | ",
    "call me ",
    "I'm sorry, ",
    "é",
    "Ã©",
    "．",
)
LENGTH = 60_000  # characters: what takes the square of it would not end within the limit of the test


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_no_text_keeps_a_cleaner_busy(name: str) -> None:
    member = cleaner(name)
    rows = [talk((bait * LENGTH)[:LENGTH], bait) for bait in BAITS]
    rows += [talk("x" + (bait * LENGTH)[:LENGTH] + "\n-->x") for bait in BAITS]
    outcomes = list(member.clean([*rows, text("Heron. " * 9000)], member.Config(), Context()))
    assert len(outcomes) == len(rows) + 1
