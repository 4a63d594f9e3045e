"""Contamination: runs of words and near questions of the held-out split and of benchmark files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sartor.data.clean import Context
from sartor.data.clean.contamination import Config, clean
from sartor.errors import DataError
from sartor.types import Chat, Example, Message, Source, Text

STORY = "In the year when the old mill burned down the baker moved his seven ovens to the school beside the church"


def chat(line: int, question: str, answer: str = "yes", file: str = "rows.jsonl") -> Chat:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Chat(source=Source(file=file, line=line), messages=turns)


HELD_OUT = (
    chat(1, f"Whose ovens are these? {STORY}.", file="test.jsonl"),
    chat(2, "How many legs does a spider of the forest have?", "eight", file="test.jsonl"),
    chat(3, "What is 17 + 25?", "42", file="test.jsonl"),
)


def told(rows: list[Example], context: Context | None = None, **options: Any) -> dict[int, str]:
    outcomes = clean(iter(rows), Config.model_validate(options), context or Context(held_out=HELD_OUT))
    return {
        entry.line: f"{entry.action}: {entry.reason}: {entry.detail}"
        for outcome in outcomes
        for entry in outcome.entries
    }


def test_runs_of_words_and_near_questions_are_found() -> None:
    rows: list[Example] = [
        chat(1, "What happened then?", f"It is written: {STORY.upper()}!"),
        chat(2, "how many legs does a spider of the forest have ?"),
        chat(3, "What is 17 + 26?"),
        Text(source=Source(file="rows.jsonl", line=4), text="Q: How many legs does a spider of the forest have? A: 8."),
        chat(5, " ".join(STORY.split()[:12]), "Twelve words in a row are met by chance."),
        chat(6, "Something else."),
        chat(7, "What is  17 + 25?"),
    ]
    found = told(rows)
    assert found == {
        1: "dropped: held_out: has a run of words of test.jsonl:1",
        2: "dropped: held_out: asks 0.93 like test.jsonl:2",
        4: "dropped: held_out: has a run of words of test.jsonl:2",
        7: "dropped: held_out: asks 1.00 like test.jsonl:3",
    }
    assert told(rows, action="report")[1].startswith("flagged")
    assert 3 in told(rows, numbers=False)


def test_benchmark_files(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "completion": "x"}) + "\n" for text in ["Who?", STORY]))
    rows: list[Example] = [chat(1, "?", STORY), chat(2, "Why is that so?"), chat(3, "What is 17 + 25?")]
    found = told(rows, Context(), benchmarks=[str(path)])
    assert found == {1: f"dropped: benchmark: has a run of words of {path}:2"}
    assert set(told(rows, benchmarks=[str(path)])) == {1, 3}


def test_an_instruction_that_all_rows_share_is_no_sign() -> None:
    ask = "Read the message of the customer below and answer with one word that says what it is about, nothing else: "
    things = [
        "lamps",
        "socks",
        "bread",
        "cats",
        "rain",
        "bills",
        "shoes",
        "boats",
        "trees",
        "clocks",
        "doors",
        "spoons",
    ]
    rows: list[Example] = [chat(line, f"{ask}my {thing} are late") for line, thing in enumerate(things, start=1)]
    held = (chat(1, f"{ask}the violin was too loud", file="test.jsonl"), chat(2, f"{ask}my cats are late"))
    assert set(told(rows, Context(held_out=held))) == {things.index("cats") + 1}


def test_nothing_to_compare_with_and_no_file_are_errors() -> None:
    with pytest.raises(DataError, match="nothing to compare with"):
        told([], Context())
    with pytest.raises(DataError, match="no file"):
        told([], benchmarks=["none.jsonl"])
