"""Incremental decoding and stop strings, over arbitrary tokens and chunks."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sartor.serve.text import IncrementalText, StopStrings


def as_bytes(ids: Sequence[int]) -> str:
    """Byte-level tokens, one byte each."""
    return bytes(ids).decode("utf-8", "replace")


def as_words(ids: Sequence[int]) -> str:
    """Tokens as SentencePiece has them: most begin with a space, and the first one of a text loses it."""
    return "".join([" a", " b", "c", " ", "", "é"][id] for id in ids).removeprefix(" ")


@settings(deadline=None)
@given(st.text().map(str.encode) | st.binary())
@example("🙂é\ufffd".encode())
@example(b"\xf0\x9f\x98A\x80\x80\xe2\x82")
def test_pieces_of_bytes_make_the_whole(data: bytes) -> None:
    text = IncrementalText(as_bytes)
    pieces = [text.push(byte) for byte in data]
    assert "".join(pieces) + text.flush() == as_bytes(list(data))
    assert text.flush() == ""


def test_what_goes_on_with_a_text_keeps_its_first_space() -> None:
    assert [IncrementalText(as_words, after).push(1) for after in ((), (0,), (4,))] == ["b", " b", "b"]
    assert IncrementalText(as_bytes, "é".encode()[1:]).push(97) == "a"


@settings(deadline=None)
@given(st.lists(st.integers(0, 5)))
def test_pieces_of_words_make_the_whole(ids: list[int]) -> None:
    text = IncrementalText(as_words)
    assert "".join(text.push(id) for id in ids) + text.flush() == as_words(ids)


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda text: "\ufffd" not in text))
def test_a_character_is_never_sent_in_part(whole: str) -> None:
    text = IncrementalText(as_bytes)
    sent = ""
    for byte in whole.encode():
        piece = text.push(byte)
        assert "\ufffd" not in piece
        sent += piece
    assert sent == whole and text.flush() == ""


def test_only_a_window_is_decoded() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return as_bytes(ids)

    text = IncrementalText(decode)
    for byte in ("abcé🙂" * 200).encode():
        text.push(byte)
    assert longest <= 8


def cut(text: str, stops: Sequence[str]) -> str:
    """What may be sent of a text, found the slow way: the first prefix that ends with a stop string ends it."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


letters = st.text(alphabet="ab🙂", max_size=30)


@settings(deadline=None, max_examples=300)
@given(st.lists(letters, max_size=12), st.lists(st.text(alphabet="ab🙂", min_size=1, max_size=5), max_size=4))
@example(["ab", "cd"], ["abcd", "c"])
@example(["aaab"], ["ab", "b"])
def test_stop_strings_over_any_chunks(chunks: list[str], stops: list[str]) -> None:
    finder = StopStrings(stops)
    sent = ""
    expected = cut("".join(chunks), stops)
    for chunk in chunks:
        sent += finder.push(chunk)
        assert expected.startswith(sent)  # nothing of a stop string leaks, not even for a moment
    found = finder.found
    assert sent + finder.flush() == expected
    assert found == any(stop in "".join(chunks) for stop in stops)


def test_text_that_cannot_begin_a_stop_is_not_held_back() -> None:
    finder = StopStrings(["END"])
    assert finder.push("the EN") == "the "
    assert finder.push("GLISH") == "ENGLISH"
    assert finder.push(" END and more") == " " and finder.found
    assert finder.push("more") == "" and finder.flush() == ""
