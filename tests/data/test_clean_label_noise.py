"""Label noise: flipped labels are suggested back; what has no labels is said to have none."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sartor.data.clean import Context
from sartor.data.clean.label_noise import Config, clean
from sartor.errors import DataError
from sartor.types import Chat, Example, LedgerEntry, Message, Source, Text

WORDS = {
    "fruit": ["apple", "pear", "plum", "cherry", "grape", "melon", "lemon", "peach", "mango", "fig"],
    "tool": ["hammer", "saw", "drill", "wrench", "pliers", "chisel", "file", "clamp", "ladder", "nail"],
    "bird": ["sparrow", "eagle", "owl", "robin", "heron", "crow", "finch", "swan", "duck", "gull"],
}


def chat(line: int, question: str, answer: str) -> Chat:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Chat(source=Source(file="rows.jsonl", line=line), messages=turns)


def labelled(count: int, flips: set[int]) -> list[Example]:
    draw = random.Random(4)
    rows: list[Example] = []
    for line in range(1, count + 1):
        true = draw.choice(list(WORDS))
        text = "I saw the " + " and the ".join(draw.sample(WORDS[true], 3))
        given = draw.choice([label for label in WORDS if label != true]) if line in flips else true
        rows.append(chat(line, text, given))
    return rows


def embed(conversations: Sequence[Sequence[Message]]) -> np.ndarray:
    """Vectors that know what each word is, and words for one thing and another."""
    counts = [
        [1e-3 + sum(word in members for word in message.content.split()) for members in WORDS.values()]
        for (message,) in conversations
    ]
    vectors_NV = np.array(counts)
    return np.asarray(vectors_NV / np.linalg.norm(vectors_NV, axis=1, keepdims=True))


def entries(rows: list[Example], context: Context | None = None, **options: Any) -> list[LedgerEntry]:
    outcomes = clean(rows, Config.model_validate(options), context or Context())
    return [entry for outcome in outcomes for entry in outcome.entries]


FLIPS = {5, 17, 40, 66, 67, 90, 111, 140}


def test_flipped_labels_are_found_by_each_way_of_judging() -> None:
    rows = labelled(150, FLIPS)
    for method in ("both", "loss", "neighbours"):
        found = entries(rows, method=method)
        lines = {entry.line for entry in found}
        assert len(lines & FLIPS) >= 7, method
        assert len(lines - FLIPS) <= 1, method
        assert {(entry.action, entry.reason, entry.field) for entry in found} == {
            ("flagged", "label_noise", "messages[1].content")
        }
    assert all(entry.detail.startswith("rather ") for entry in found)


def test_a_label_that_would_be_masked_is_told_by_a_row_that_has_it() -> None:
    desks = {
        "fruit": "jane.doe@acme-corp.com",
        "tool": "desk 66.187.233.211",
        "bird": "call +49 30 901820",
    }
    rows = [
        row.model_copy(update={"messages": (row.messages[0], Message(role="assistant", content=desks[row.target]))})
        for row in labelled(150, FLIPS)
        if isinstance(row, Chat)
    ]
    found = entries([*rows])
    assert {entry.line for entry in found} & FLIPS
    places = {f"rows.jsonl:{row.source.line}": row.target for row in rows}
    for entry in found:
        assert not any(desk in entry.detail for desk in desks.values())
        better, given = re.findall(r"the label of (rows\.jsonl:\d+)", entry.detail)
        assert places[given] == places[f"rows.jsonl:{entry.line}"] != places[better]


def test_an_encoder_may_say_what_is_near() -> None:
    rows = labelled(150, FLIPS)
    found = entries(rows, Context(embed=embed), vectors="encoder", method="neighbours")
    assert {entry.line for entry in found} == FLIPS
    with pytest.raises(DataError, match="needs an encoder"):
        entries(rows, vectors="encoder")


def test_they_are_dropped_only_where_that_is_asked_for_and_never_changed() -> None:
    rows = labelled(150, FLIPS)
    kept = [outcome.example for outcome in clean(rows, Config(), Context())]
    assert kept == rows
    dropped = [outcome.example is None for outcome in clean(rows, Config(action="drop"), Context())]
    assert 7 <= sum(dropped) <= 9


def test_rows_of_other_kinds_stay_between() -> None:
    rows = labelled(60, {7})
    rows.insert(3, Text(source=Source(file="rows.jsonl", line=99), text="I saw the apple"))
    outcomes = list(clean(rows, Config(), Context()))
    assert [outcome.example for outcome in outcomes] == rows
    assert [entry.line for outcome in outcomes for entry in outcome.entries] == [7]


def test_without_labels_the_first_row_says_so() -> None:
    free: list[Example] = [chat(line, f"question {line}", f"an answer of its own, {line}") for line in range(1, 50)]
    for rows in (free, labelled(10, set())):
        (entry,) = entries(rows)
        assert (entry.line, entry.action, entry.reason) == (1, "flagged", "no_labels")
    assert entries([]) == []


def test_texts_without_words_are_judged_like_any() -> None:
    rows = [*labelled(40, set()), *[chat(100 + line, "", "fruit") for line in range(3)]]
    assert all(entry.reason == "label_noise" for entry in entries(rows))
