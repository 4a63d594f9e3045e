"""Documents are cut at their seams, and nothing of them is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor.build.chunks import Chunk, Config, chunks

from .papers import MANUAL, paper

TEXTS = st.text(alphabet=st.sampled_from(list("abc äß漢。.!? \n\t#`~-")), max_size=400)


def cut(text: str, **config: object) -> list[Chunk]:
    return list(chunks(paper(text), Config.model_validate(config)))


def test_sections_stay_whole_where_they_fit() -> None:
    found = cut(MANUAL, size=200)
    assert [chunk.text.split("\n")[0] for chunk in found] == ["# Kettle", "## Cleaning", "## Warranty"]
    assert [chunk.headings for chunk in found] == [("Kettle",), ("Kettle", "Cleaning"), ("Kettle", "Warranty")]
    assert [chunk.number for chunk in found] == [1, 2, 3]


def test_small_sections_are_put_together() -> None:
    assert len(cut(MANUAL, size=2000)) == 1
    assert len(cut("# A\n\none\n\n# B\n\ntwo\n\n# C\n\nthree\n", size=100)) == 1


def test_larger_ones_are_cut_at_paragraphs_then_sentences_then_words() -> None:
    assert [chunk.text for chunk in cut("one two.\n\nthree four.", size=16)] == ["one two.", "three four."]
    assert [chunk.text for chunk in cut("One two three. Four five six.", size=16)] == [
        "One two three.",
        "Four five six.",
    ]
    assert [chunk.text for chunk in cut("one two three four five", size=16)] == ["one two three", "four five"]
    assert [chunk.text for chunk in cut("x" * 40, size=16)] == ["x" * 10] * 4


def test_a_place_is_known() -> None:
    found = cut(MANUAL, size=200)
    lines = MANUAL.split("\n")
    for chunk in found:
        assert lines[chunk.line - 1] == chunk.text.split("\n")[0]
        assert lines[chunk.last_line - 1] == chunk.text.split("\n")[-1]
    assert found[1].source.id == "manual.md:5"
    assert found[1].source.origin == "manual.md"


def test_the_title_is_what_stands_above() -> None:
    (chunk,) = chunks(paper("# A\n## B\ntext", title="Book"), Config())
    assert chunk.title == "Book › A"


def test_code_in_a_fence_is_no_heading() -> None:
    assert [chunk.headings for chunk in cut("~~~\n# no\n~~~\n# yes\n" + "word " * 10, size=40)][-1] == ("yes",)


def test_chunks_overlap_by_whole_sentences() -> None:
    text = "One is here. Two is here. Three is here. Four is here. Five is here."
    found = cut(text, size=40, overlap=14)
    assert [chunk.text for chunk in found[:2]] == ["One is here. Two is here.", "Two is here. Three is here."]
    assert all(len(chunk.text) <= 40 for chunk in found)


def test_sizes_may_be_tokens() -> None:
    config = Config(size=16, unit="tokens")
    found = list(chunks(paper("one two three four " * 10), config, count=lambda text: len(text.split())))
    assert [len(chunk.text.split()) for chunk in found] == [16, 16, 8]


def test_an_overlap_leaves_room() -> None:
    with pytest.raises(ValidationError, match="at most half"):
        Config(size=100, overlap=60)


@settings(max_examples=120, deadline=None)
@given(TEXTS, st.integers(16, 60), st.integers(0, 8))
def test_every_character_is_in_one_chunk_and_none_is_too_large(text: str, size: int, overlap: int) -> None:
    found = cut(text, size=size, overlap=overlap)
    covered = [0] * len(text)
    for chunk in found:
        assert 0 < len(chunk.text) <= size
        assert chunk.line == text.count("\n", 0, chunk.start) + 1
        for place in range(chunk.start, chunk.end):
            covered[place] += 1
    for place, char in enumerate(text):
        assert covered[place] >= 1 or char.isspace()
        assert covered[place] <= (2 if overlap else 1)
