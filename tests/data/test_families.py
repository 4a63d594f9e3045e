"""What belongs together is never parted by a split: equal and nearly equal questions, and what was made of one row."""

from __future__ import annotations

import random

import pytest

from sartor.data.families import alike, families
from sartor.data.split import split
from sartor.types import Chat, Message, Source

WORDS = ["ship", "sail", "harbour", "wind", "anchor", "rope", "deck", "mast", "keel", "tide", "storm", "pilot", "cargo"]
SYSTEM = "You are the harbour master of a small town by the sea, and answer each captain politely and in few words."


def row(line: int, question: str, *, system: str = "", origin: str = "") -> Chat:
    asked = Message(role="user", content=question)
    leading = (Message(role="system", content=system),) if system else ()
    answer = Message(role="assistant", content=f"answer {line}")
    return Chat(source=Source(file="a.jsonl", line=line, origin=origin), messages=(*leading, asked, answer))


def different(count: int, *, system: str = "") -> list[Chat]:
    draw = random.Random(5)
    return [row(line, " ".join(draw.choices(WORDS, k=12)), system=system) for line in range(count)]


def sizes(rows: list[Chat]) -> list[int]:
    return sorted(map(len, families(rows).values()))


def test_different_questions_are_families_of_their_own() -> None:
    assert sizes(different(30)) == [1] * 30
    assert sizes(different(30, system=SYSTEM)) == [1] * 30


def test_nearly_equal_questions_are_one_family() -> None:
    rows = different(30)
    rows.append(row(99, f"{rows[3].messages[0].content} please"))
    assert sizes(rows) == [1] * 29 + [2]


def test_what_was_made_of_a_row_is_of_its_family() -> None:
    rows = different(30)
    rows += [row(99, "Wholly other words", origin=rows[3].id), row(100, "And none of these", origin=rows[3].id)]
    assert sizes(rows) == [1] * 29 + [3]


def test_the_order_of_rows_changes_no_family() -> None:
    rows = [*different(30), row(98, "Wholly other words", origin="a.jsonl:3"), row(99, "Nothing")]
    backwards = {key: sorted(len(rows) - 1 - place for place in places) for key, places in families(rows[::-1]).items()}
    assert backwards == {key: sorted(places) for key, places in families(rows).items()}


@pytest.mark.parametrize("seed", range(5))
def test_no_family_stands_on_two_sides(seed: int) -> None:
    rows = different(60)
    rows += [row(100 + line, f"{item.messages[0].content} now") for line, item in enumerate(rows[:20])]
    rows += [row(200 + line, f"Paraphrase {line}", origin=item.id) for line, item in enumerate(rows[:20])]
    parts = split(rows, seed=seed)
    side = {item.id: name for name in ("train", "dev", "test") for item in getattr(parts, name)}
    assert parts.test
    for places in families(rows).values():
        assert len({side[rows[place].id] for place in places}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_giant_family_is_never_held_out(seed: int) -> None:
    rows = different(40) + [row(100 + line, f"Paraphrase {line}", origin="a.jsonl:3") for line in range(30)]
    parts = split(rows, seed=seed)
    assert not {item.source.origin for item in (*parts.dev, *parts.test)} - {""}
    assert "a.jsonl:3" in {item.id for item in parts.train}


def test_held_out_items_that_are_nearly_asked_in_training_are_found() -> None:
    rows = different(40)
    held_out = [row(100, f"{rows[3].messages[0].content} please"), row(101, "Wholly other words"), row(102, "Nothing")]
    assert alike(rows, held_out) == [("a.jsonl:100", "a.jsonl:3")]
    assert alike([], held_out) == []
