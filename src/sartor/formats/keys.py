"""Keys that say whose a row is, whatever else stands in it."""

from __future__ import annotations

from sartor.types import Json

#: Keys of rows that rate or rank answers, which must not be imitated as if they were all good.
RATING = ("label", "kto_tag", "chosen", "rejected")
#: Beside one of these, a single text column is the whole row rendered once more (as in tatsu-lab/alpaca).
TALK = ("messages", "conversations", "instruction", "output", "prompt", "completion", "question", "answer", *RATING)


def is_ours(row: Json) -> bool:
    """One of Sartor's own prepared examples: data folders and runs hold them."""
    return "kind" in row and "source" in row


def lacks(row: Json, *keys: str) -> bool:
    """None of the keys is there, and the row is not one of our own."""
    return row.keys().isdisjoint(keys) and not is_ours(row)
