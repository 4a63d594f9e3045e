"""PDF: pages, running lines, and what cannot be read."""

from __future__ import annotations

import pytest

from sartor.extract import NotTaken
from sartor.extract import pdf as reader

from .pdfs import pdf


def test_pages_with_their_starts_and_title() -> None:
    found = reader.extract(pdf("One fish\ntwo fish", "", "Red fish", title="Fish"))
    assert (found.text, found.title) == ("One fish\ntwo fish\n\n\n\nRed fish", "Fish")
    assert found.about["pages"] == 3
    assert [found.text[start : start + 3] for start in found.about["page_starts"]][::2] == ["One", "Red"]
    assert [note.reason for note in found.notes] == ["pages_without_text"]


def test_running_titles_and_feet_are_left_out_and_said() -> None:
    pages = [
        f"The Book of Fish\nText number {'abcdef'[page]}\n{'abcdef'[page]} more\npage {page + 7}" for page in range(6)
    ]
    found = reader.extract(pdf(*pages))
    assert "Book" not in found.text and "page" not in found.text and found.text.count("more") == 6
    (note,) = found.notes
    assert note.reason == "running_lines" and "The Book of Fish" in note.detail


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.4\nno", "damaged"),
        (b"", "damaged"),
        (pdf("", ""), "no_text"),
        (pdf("One")[:150], "damaged"),
        (pdf(None, None), "damaged"),
    ],
)
def test_what_cannot_be_read_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(NotTaken) as caught:
        reader.extract(content)
    assert caught.value.reason == reason


def test_a_damaged_page_or_title_is_said_and_the_rest_is_read() -> None:
    found = reader.extract(pdf("One fish", None, "", "Red fish", title="<FEFFD800>"))
    assert (found.text, found.title, found.about["pages"]) == ("One fish\n\n\n\n\n\nRed fish", "", 4)
    assert [(note.reason, note.detail) for note in found.notes] == [
        ("damaged_title", "it cannot be read: unexpected end of data"),
        ("damaged_pages", "1 of 4, first page 2: Failed to load page."),
        ("pages_without_text", "1 of 4, first page 3"),
    ]


def test_limits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("PDF_BYTES", 10), ("PDF_PAGES", 1), ("PDF_PAGE_CHARACTERS", 3), ("PDF_CHARACTERS", 10)):
        with monkeypatch.context() as changed:
            changed.setattr(reader, name, most)
            with pytest.raises(NotTaken, match=f"the limit {name.lower()} is {most}"):
                reader.extract(pdf("One fish", "two"))
