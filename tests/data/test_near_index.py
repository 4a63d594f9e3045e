"""Near texts are found, others are not; the first of near ones is kept, and groups hold all that are near."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data import near
from sartor.data.near.index import Match

VOCABULARY = [
    "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=3 + seed % 7)) for seed in range(3000)
]


def composed(count: int, words: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(VOCABULARY, k=words)) for _ in range(count)]


def changed(text: str, share: float, draw: random.Random) -> str:
    return " ".join(draw.choice(VOCABULARY) if draw.random() < share else word for word in text.split())


def jaccard(left: str, right: str, *, by_words: bool) -> float:
    sets = []
    for text in (left, right):
        units, width = (text.split(), 3) if by_words else (text, 5)
        sets.append({tuple(units[start : start + width]) for start in range(max(1, len(units) - width + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("words", [8, 80])
def test_recall_and_false_pairs_on_labelled_pairs(words: int) -> None:
    draw = random.Random(7)
    originals = composed(1500, words)
    copies = [changed(text, draw.choice([0.02, 0.05, 0.08, 0.12, 0.35]), draw) for text in originals]
    index = near.Index()
    assert index.add(originals) == [None] * len(originals)
    matches = index.find(copies)
    true = [jaccard(one, other, by_words=words > 20) for one, other in zip(originals, copies, strict=True)]
    wanted = [row for row, value in enumerate(true) if value >= near.THRESHOLD]
    found = [row for row in wanted if matches[row] is not None]
    assert len(wanted) > 300
    assert len(found) >= 0.97 * len(wanted)
    for row, match in enumerate(matches):
        if match is not None:
            assert match.number == row
            assert match.likeness == pytest.approx(true[row])
            assert true[row] >= near.THRESHOLD


def test_the_first_is_kept_and_every_other_is_near_to_one_that_is() -> None:
    draw = random.Random(3)
    texts = composed(40, 60)
    chain = [texts[0]]
    for _ in range(30):  # small steps that lead far away
        words = chain[-1].split()
        words[draw.randrange(60)] = draw.choice(VOCABULARY)
        chain.append(" ".join(words))
    rows = [*texts, *chain[1:]]
    matches = near.Index().add(rows)
    kept = {row for row, match in enumerate(matches) if match is None}
    assert set(range(40)) <= kept
    assert len(kept) > 41, "a chain of small steps is not one text"
    for row, match in enumerate(matches):
        if match is not None:
            assert match.number in kept
            assert jaccard(rows[row], rows[match.number], by_words=True) >= near.THRESHOLD
    assert len(set(near.groups(rows, frame=False))) == 40, "but one group"


def test_batches_of_any_size_give_the_same() -> None:
    texts = [text for text in composed(300, 12) for _ in range(2)]
    whole = near.Index().add(texts)
    index = near.Index()
    parts = [match for start in range(0, 600, 7) for match in index.add(texts[start : start + 7])]
    assert parts == whole
    assert whole == [None if row % 2 == 0 else Match(row - 1, 1.0) for row in range(600)]
    assert len(index) == 600


def test_texts_with_other_tags_are_never_near() -> None:
    texts = ["What is the sum of 17 and 25, please?"] * 4
    assert near.Index().add(texts, [1, 2, 1, 2]) == [None, None, Match(0, 1.0), Match(1, 1.0)]
    assert near.groups(texts, tags=[1, 2, 1, 2]) == [0, 1, 0, 1]
    index = near.Index()
    index.add(texts[:1], [1])
    assert index.find(texts[:1], [2]) == [None]


def test_many_copies_cost_nothing_and_are_all_found() -> None:
    texts = composed(3, 30) * 700
    assert near.groups(texts) == [0, 1, 2] * 700
    matches = near.Index().add(texts)
    assert [match.number for match in matches[3:] if match] == [0, 1, 2] * 699


def test_a_common_frame_makes_no_texts_near() -> None:
    frame = (
        "You are a helpful assistant in the office of a large company that sells garden tools. Read the message of a "
        "customer below, think about what it is that they want from us, and name its topic in one word. Message: "
    )
    texts = [frame + text for text in composed(200, 6)]
    assert len(set(near.groups(texts))) == 200
    assert len(set(near.groups(texts, frame=False))) < 50
    assert near.groups([*texts, texts[5] + " indeed"])[-1] == 5


def test_short_and_long_meet_around_the_border() -> None:
    words = composed(1, 40)[0].split()
    for length in (14, 15, 16, 17, 30, 31, 32, 33):
        one, other = " ".join(words[:length]), " ".join([*words[:length], "more"])
        assert near.groups([one, other]) == [0, 0], length


def test_texts_without_words() -> None:
    assert near.groups([]) == []
    assert near.groups(["", " ", "\0", "\0", "?!", "?!", "😀😀"]) == [0, 1, 2, 2, 4, 4, 6]
    assert near.Index().add([]) == []


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(alphabet="ab .中\0é", max_size=30), max_size=12), st.sampled_from([0.5, 0.7, 1.0]))
def test_any_texts_twice_the_same(texts: list[str], threshold: float) -> None:
    found = near.groups(texts, threshold=threshold)
    assert found == near.groups(texts, threshold=threshold)
    assert all(found[first] == first <= place for place, first in enumerate(found))
    for place, text in enumerate(texts):
        assert not text.strip() or found[place] == found[texts.index(text)]


def test_memory_is_as_stated() -> None:
    index = near.Index()
    for start in range(0, 8000, 500):
        index.add(composed(500, 82, seed=start))
    assert index.num_bytes / 8000 < 700


def test_a_look_that_is_not_taken_leaves_no_trace() -> None:
    index = near.Index()
    texts = composed(5, 30)
    look = index.look(texts)
    assert list(look.pairs) == []
    assert len(index) == 0
    index.take(look, np.array([True, False, True, False, True]))
    assert [match.number if match else None for match in index.find(texts)] == [0, None, 2, None, 4]


def test_scripts_without_spaces() -> None:
    one = "中文维基百科是维基百科协作计划的中文版本自年月日正式成立由非营利组织负责维运"
    thai = "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์เช่นเดียวกับภาษาจีน"
    texts = [one, thai, one.replace("正式", ""), thai.replace("หรือ", ""), one[::-1], thai[::-1]]
    assert near.groups(texts) == [0, 1, 0, 1, 4, 5]
