"""Encodings: UTF-8 as it is, everything else told, and no text made of what is none."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.extract import NotTaken
from sartor.extract.encodings import decode, lines

GERMAN = "Größe, Maß und Übermut: fünf müde Jäger hören späte Glöckchen läuten. " * 3
RUSSIAN = "Привет, мир. Сегодня хорошая погода, и мы идём гулять в парк. " * 3
JAPANESE = "日本語の文章です。今日はとてもいい天気なので、公園へ散歩に行きましょう。" * 3


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=200))
def test_utf8_is_itself(text: str) -> None:
    plain = text.removeprefix("\ufeff")
    assert decode(plain.encode()) == (plain, ()) and decode(codecs.BOM_UTF8 + plain.encode()) == (plain, ())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_marks_are_believed(encoding: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
    mark |= {"utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}
    text, (note,) = decode(mark[encoding] + RUSSIAN.encode(encoding))
    assert text == RUSSIAN and note.reason == "encoding" and encoding in note.detail
    with pytest.raises(NotTaken, match=f"the mark of {encoding}"):
        decode(mark[encoding] + RUSSIAN.encode(encoding)[:-1])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "cp1252"),
        (GERMAN, "latin-1"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "cp1251"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc-jp"),
    ],
)
def test_other_encodings_are_guessed_or_told_and_said(text: str, encoding: str) -> None:
    for charset in ("", encoding):
        found, (note,) = decode(text.encode(encoding), charset)
        assert found == text and note.reason == "encoding"


def test_damaged_utf8_stays_utf8() -> None:
    found, (note,) = decode(GERMAN.encode() + b"\xff" + GERMAN.encode())
    assert found == GERMAN + "\ufffd" + GERMAN and "1 broken place" in note.detail


def test_a_charset_that_is_wrong_or_unknown_is_not_believed() -> None:
    for charset in ("no-such", "base64", "utf-7", "idna", "shift_jis"):
        assert decode(GERMAN.encode("cp1252"), charset)[0] == GERMAN or charset == "shift_jis"
    assert decode(GERMAN.encode(), "koi8-r") == (GERMAN, ())


@pytest.mark.parametrize("content", [bytes(range(255, 190, -1)) + b"\0\xff", b"\x00\x01\x02" * 50, b"ab\0" * 9])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(NotTaken) as caught:
        decode(content)
    assert caught.value.reason in ("binary", "encoding")


def test_line_ends_become_one_kind() -> None:
    assert lines("a\r\nb\rc\n") == "a\nb\nc\n"
