"""Semantic duplicates, by a toy encoder whose vectors are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sartor.data.clean import Context, semantic_duplicates
from sartor.data.clean.semantic_duplicates import Config, clean
from sartor.errors import DataError
from sartor.types import Example, Message, Source, Text


def embed(conversations: Sequence[Sequence[Message]]) -> np.ndarray:
    """`… @30` points to 30 degrees."""
    angles = [math.radians(float(message.content.split("@")[1])) for (message,) in conversations]
    return np.array([[math.cos(angle), math.sin(angle)] for angle in angles])


def rows(*texts: str) -> list[Example]:
    return [Text(source=Source(file="a.txt", line=line), text=text) for line, text in enumerate(texts, start=1)]


def told(texts: list[str], **options: Any) -> dict[int, str]:
    config = Config.model_validate({"numbers": False, **options})
    outcomes = clean(iter(rows(*texts)), config, Context(embed=embed))
    return {entry.line: f"{entry.action}: {entry.detail}" for outcome in outcomes for entry in outcome.entries}


def test_the_first_stays_and_what_is_near_to_what_stays_goes() -> None:
    texts = ["a @0", "b @90", "c @10", "d @20", "e @95"]
    assert told(texts) == {
        3: "dropped: 0.985 like a.txt:1",
        5: "dropped: 0.996 like a.txt:2",
    }, "20 degrees are near to 10, which does not stay, and not to 0"
    assert set(told(texts, threshold=0.99)) == {5}
    assert told(texts, action="report")[3] == "flagged: 0.985 like a.txt:1"


def test_batches_and_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"row @{(row * 37) % 360}" for row in range(200)]
    whole = told(texts)
    monkeypatch.setattr(semantic_duplicates, "BATCH", 7)
    monkeypatch.setattr(semantic_duplicates, "BLOCK", 3)
    assert told(texts) == whole
    assert 100 < len(whole) < 200


def test_other_numbers_are_other_examples() -> None:
    texts = ["17 and 25 @0", "17 and 26 @0", "17 and 25 again @0"]
    assert set(told(texts, numbers=True)) == {3}
    assert set(told(texts)) == {2, 3}


def test_without_an_encoder_it_says_so() -> None:
    with pytest.raises(DataError, match="needs an encoder") as caught:
        list(clean(iter(rows("x")), Config(), Context()))
    assert "all-minilm-l6-v2" in caught.value.hint
    assert list(clean(iter([]), Config(), Context(embed=embed))) == []
