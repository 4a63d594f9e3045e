"""Runs of words that are met again: of thirteen words, of a whole short text, and never of a frame."""

from __future__ import annotations

from sartor.data.finding.runs import FEWEST, MANY, WORDS, Runs

LETTERS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
]


def words(count: int, start: int = 0) -> str:
    return " ".join(LETTERS[start : start + count])


def test_a_long_text_is_known_by_each_of_its_runs() -> None:
    runs = Runs([words(16), "something else entirely"])
    asked = [f"x {words(WORDS, 2).upper()}, y!", words(WORDS - 1), words(WORDS, 3).replace("iota", "x"), ""]
    assert runs.find(asked) == [0, None, None, None]


def test_a_short_text_is_known_by_all_its_words_together() -> None:
    runs = Runs([words(FEWEST), words(FEWEST - 1), words(10, 5)])
    asked = [f"Q: {words(FEWEST)}? A: yes", words(FEWEST - 1), f"{words(10, 5)}.", words(9, 5)]
    assert runs.find(asked) == [0, None, 2, None]


def test_the_first_that_has_it_is_named() -> None:
    assert Runs([words(14), words(16), words(14)]).find([words(16), words(WORDS, 3)]) == [0, 1]


def test_what_many_different_texts_have_is_a_frame() -> None:
    frame, own = words(WORDS), "one two three four five six seven eight nine ten eleven twelve thirteen"
    runs = Runs([f"{frame} {own}"])
    runs.forget_frames([f"{frame} x{row}" for row in range(MANY)])
    assert runs.find([f"{frame} new"]) == [0]
    runs.forget_frames([f"{frame} same"] * 99)
    assert runs.find([f"{frame} new"]) == [0], "one text many times is no frame"
    runs.forget_frames([f"{frame} x{row}" for row in range(MANY + 1)])
    assert runs.find([f"{frame} new", own]) == [None, 0]


def test_nothing_is_found_in_nothing() -> None:
    assert Runs([]).find([words(16), ""]) == [None, None]
    runs = Runs(["too short"])
    runs.forget_frames([words(16)])
    assert runs.find([words(16)]) == [None]
    assert Runs([words(16)]).find([]) == []
