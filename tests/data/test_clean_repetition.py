"""Gopher's rules on repetition."""

from __future__ import annotations

import pytest

from .rows import outcomes, reasons, talk

#: Sixty different words, in sentences.
PROSE = (
    "The heron stands in shallow water and waits until some fish comes near. Its neck folds like a spring, then "
    "strikes. Farmers along this river have known that bird for centuries; they call him the grey monk. In winter he "
    "moves south, though milder years let many stay. Nests are built high up on old poplars, often dozens together, "
    "noisy all spring long."
)


def test_prose_stays() -> None:
    assert reasons("repetition", talk(PROSE)) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("\n".join([PROSE, *["I do not know what to say about it."] * 8]), "repeated_lines"),
        ("\n\n".join(f"{part}\nnumber {count}" for count, part in enumerate([PROSE] * 3)), "repeated_lines"),
        ("very good " * 40, "repeated_words"),
        (
            PROSE.replace(" and ", " of the river ").replace(" the ", " of the river ").replace(". ", " of the river. ")
            + " of the river" * 8,
            "repeated_words",
        ),
        ("好的" * 60, "repeated_words"),
    ],
)
def test_repetition_goes(answer: str, reason: str) -> None:
    assert reasons("repetition", talk(answer)) == [reason]


def test_paragraphs() -> None:
    pairs = [f"{PROSE} {letter}." for letter in "abc"]
    answer = "\n\n".join([part.replace("\n", " ") for part in [*pairs, "x y\nz w", "x y\nz w", "x y\nz w"]])
    (outcome,) = outcomes("repetition", [talk(answer)])
    assert outcome.example is None


def test_short_texts_and_code_are_not_judged() -> None:
    assert reasons("repetition", talk("ha " * 49)) == []
    assert reasons("repetition", talk("```\n" + "x = x + 1\n" * 60 + "```")) == []


@pytest.mark.parametrize("written", ["no", "no no", "no no no", "好", "```\nx\n```"])
def test_a_text_of_a_word_or_two_may_be_judged(written: str) -> None:
    repeats = ["repeated_words"] if written == "no no no" else []
    assert reasons("repetition", talk(written, question="?"), fewest_words=1) == repeats


def test_settings() -> None:
    row = talk("very good " * 40)
    assert reasons("repetition", row, allowance=10) == []
    (outcome,) = outcomes("repetition", [row], action="report")
    assert outcome.example == row
    (entry,) = outcome.entries
    assert entry.field == "messages[1].content"
    assert entry.detail == "characters in the most frequent 2 words: 100%, at most 20%"
