"""Texts to sets of shingles: against plain Python, in all scripts, and without what most texts share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data.near import shingles
from sartor.data.near.shingles import CHARACTERS, SHORT, WORDS, Ragged, frame_of, runs_of, slices, units_of, without

TEXTS = st.text(st.characters(), max_size=60) | st.text(alphabet="ab A.\n中文กขé", max_size=60)
LONG = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon"


def sets(texts: list[str], scale: shingles.Scale) -> dict[int, set[int]]:
    """The set of each text that is compared on a scale."""
    units = units_of(texts)
    found = units.shingles(scale)
    rows = units.rows(scale).tolist()
    return {row: set(found.taken(np.array([place])).values.tolist()) for place, row in enumerate(rows)}


def jaccard(left: str, right: str, scale: shingles.Scale = "characters") -> float:
    one, other = sets([left, right], scale).values()
    return len(one & other) / len(one | other)


def by_hand(text: str, width: int) -> set[str]:
    plain = " ".join(text.lower().split())
    return {plain[start : start + width] for start in range(max(1, len(plain) - width + 1))}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(alphabet="abcd  .", max_size=40), min_size=2, max_size=8))
def test_sets_have_the_sizes_that_plain_python_counts(texts: list[str]) -> None:
    found = sets(texts, "characters")
    assert set(found) == {row for row, text in enumerate(texts) if text.strip()}
    for row, mine in found.items():
        assert len(mine) == len(by_hand(texts[row], CHARACTERS))
        for other, theirs in found.items():
            assert len(mine & theirs) == len(by_hand(texts[row], CHARACTERS) & by_hand(texts[other], CHARACTERS))


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, max_size=8))
def test_a_text_has_the_same_set_wherever_it_stands(texts: list[str]) -> None:
    together = sets(texts, "characters")
    for row, mine in together.items():
        assert sets([texts[row]], "characters") == {0: mine}


def test_words_are_runs_of_letters_marks_and_digits() -> None:
    units = units_of(["It's 9 o'clock, naïve—हिन्दी!", "", "...", "中文ab ไทย"])
    assert units.words.counts.tolist() == [7, 0, 0, 6]
    same = units_of(["ÅNGSTRÖM  Ｗｉｄｅ", "ångström wide"]).words.values
    assert same[:2].tolist() == same[2:].tolist()


def test_short_texts_are_compared_by_characters_long_ones_by_words_and_those_between_by_both() -> None:
    words = LONG.split() * 2
    texts = ["", " ".join(words[: SHORT - 1]), " ".join(words[:SHORT]), " ".join(words[: 2 * SHORT])]
    units = units_of(texts)
    assert units.rows("characters").tolist() == [1, 2]
    assert units.rows("words").tolist() == [2, 3]
    assert len(sets(texts, "words")[2]) == SHORT - WORDS + 1


def test_punctuation_and_numbers_count_in_short_texts_case_and_spacing_do_not() -> None:
    assert jaccard("What is 2+2?", "What is 2-2?") < 0.5
    assert jaccard("What is\n 2+2?", "what IS 2+2? ") == 1.0
    assert jaccard("a", "b") == 0.0


def test_runs_have_the_width_of_their_text() -> None:
    units = Ragged(np.arange(1, 8, dtype=np.uint64), np.array([0, 4, 4, 7]))
    runs = runs_of(units, np.array([3, 2, 4]))
    assert runs.counts.tolist() == [2, 0, 0]
    again = runs_of(units, np.array([4, 1, 1]))
    assert again.counts.tolist() == [1, 0, 3]
    assert not set(runs.values.tolist()) & set(again.values.tolist())


def test_what_most_texts_share_is_their_frame() -> None:
    ask = "Classify the following customer message: "
    texts = [ask + word for word in LONG.split()]
    frame = frame_of(texts)
    left = without(units_of(texts).shingles("characters"), frame["characters"])
    assert max(left.counts) <= len("epsilon") + CHARACTERS
    assert min(left.counts) > 0


def test_a_text_that_is_all_frame_keeps_it_and_few_texts_have_none() -> None:
    texts = [f"{LONG} number {row}" for row in range(20)]
    frame = frame_of(texts)["words"]
    kept = without(units_of([LONG, "of its own kind " * 20]).shingles("words"), frame)
    assert kept.counts[0] == len(LONG.split()) - WORDS + 1
    assert not len(frame_of(texts[:9])["words"])
    assert frame_of([]) == {}
    assert not len(frame_of([LONG] * 50)["words"]), "one text fifty times is no frame"


def test_batches_have_few_texts_and_few_characters() -> None:
    texts = ["a"] * 600 + ["b" * shingles.BATCH_CHARACTERS] * 3 + [""]
    parts = list(slices(texts))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0], parts[-1].stop) == (slice(0, shingles.BATCH), len(texts))
    assert list(slices([])) == []


def test_characters_that_stand_for_many_are_no_bomb() -> None:
    units = units_of(["\ufdfa" * 1000])
    assert units.characters(np.array([0])).counts.tolist() == [2000]


def test_of_a_very_long_text_the_beginning_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shingles, "LONGEST", 50)
    assert units_of(["a " * 1000]).words.counts.tolist() == [25]
