"""From bytes to text: by a byte order mark, as UTF-8, as the place says, or by a guess. What is no UTF-8 is said."""

from __future__ import annotations

import codecs
import re

from sartor.data.extra import needs
from sartor.extract import Note, NotTaken

#: Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: Control characters that no text has; tab, line feed, form feed, carriage return and escape may be there.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
#: Text in UTF-8 with damage: at most one broken byte for so many sound characters beyond ASCII.
_SOUND_PER_BROKEN = 20
#: More control characters than one in so many: this is no text, whatever it decodes as.
_CHARACTERS_PER_CONTROL = 200


def decode(content: bytes, charset: str = "", *, html: bool = False) -> tuple[str, tuple[Note, ...]]:
    """The text, and a note where it is not in UTF-8.

    Args:
        content: the bytes.
        charset: what the place said it is.
        html: look for a charset in a meta tag too.

    Raises:
        NotTaken: `binary` or `encoding`.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _marked(content[len(mark) :], encoding)
    try:
        return _text(content.decode("utf-8")), ()
    except UnicodeDecodeError as error:
        broken = error
    if charset and (said := _decoded(content, charset)) is not None:
        return _text(said), (Note("encoding", f"read as {charset}, as the place says; it is not in UTF-8"),)
    return _guessed(content, broken, html)


def lines(text: str) -> str:
    """The text with one kind of line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _marked(content: bytes, encoding: str) -> tuple[str, tuple[Note, ...]]:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise NotTaken("encoding", f"it has the mark of {encoding}, and byte {error.start:,} does not fit") from error
    notes = () if encoding == "utf-8" else (Note("encoding", f"read as {encoding}, as its mark says"),)
    return _text(text), notes


def _guessed(content: bytes, broken: UnicodeDecodeError, html: bool) -> tuple[str, tuple[Note, ...]]:
    if b"\0" in content:
        raise NotTaken("binary", "it has NUL bytes")
    needs("resiliparse")
    from resiliparse.parse.encoding import detect_encoding

    mended = content.decode("utf-8", "replace")
    num_broken = mended.count("\ufffd")
    num_sound = sum(character > "\x7f" for character in mended) - num_broken
    if num_sound >= _SOUND_PER_BROKEN * num_broken:
        return _text(mended), (Note("encoding", f"UTF-8 with {num_broken:,} broken places, each now U+FFFD"),)
    guess = detect_encoding(content, from_html_meta=html) or "windows-1252"
    text = _decoded(content, guess)
    if text is None:
        seen = f"0x{content[broken.start]:02x} at byte {broken.start + 1:,}"
        raise NotTaken("encoding", f"neither UTF-8 ({seen}) nor {guess}, which it resembles most")
    return _text(text), (Note("encoding", f"read as {guess}, a guess: it is not in UTF-8"),)


def _decoded(content: bytes, encoding: str) -> str | None:
    """The text, where the bytes fit; of encodings that the web knows. What it calls Latin-1 is Windows-1252."""
    needs("resiliparse")
    from resiliparse.parse.encoding import map_encoding_to_html5

    try:
        return content.decode(map_encoding_to_html5(encoding) or "utf-8")
    except (LookupError, UnicodeDecodeError):
        return None


def _text(text: str) -> str:
    num_control = len(_CONTROL.findall(text))
    if num_control * _CHARACTERS_PER_CONTROL > len(text):
        raise NotTaken("binary", f"{num_control:,} of {len(text):,} characters are control characters")
    return text
