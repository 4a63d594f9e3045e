"""Markdown and plain text, and what stands before them."""

from __future__ import annotations

import pytest

from sartor import extract
from sartor.extract import NotTaken, markdown, media_type_of, text
from sartor.extract.front_matter import front_matter


def test_front_matter_is_read_and_taken_off() -> None:
    content = b'---\r\ntitle: "Fish"\r\nlicence:\r\n- cc-by-4.0\r\nlang: en\r\nother: [x]\r\n---\r\n\r\n# Heading\r\n'
    found = markdown.extract(content)
    assert (found.text, found.title, found.licence, found.about) == (
        "# Heading\n",
        "Fish",
        "cc-by-4.0",
        {"language": "en"},
    )


@pytest.mark.parametrize(
    ("content", "title"), [("# A *b* #\n", "A *b*"), ("text\n\nUnder\n===\n", "Under"), ("## no\n", ""), ("", "")]
)
def test_the_first_heading_is_the_title(content: str, title: str) -> None:
    assert markdown.extract(content.encode()).title == title


@pytest.mark.parametrize("filling", ["#", " ", "\t", "# "])
def test_a_heading_is_read_once_whatever_it_is_filled_with(filling: str) -> None:
    line = f"# x{filling * 500_000}y"  # what is worse than linear does not end at this size
    assert markdown.extract(line.encode()).title == line[2:]
    assert markdown.extract(line[:-1].encode()).title == "x"
    assert markdown.extract(f"#{filling * 500_000}\n\n# y".encode()).title == "y"


def test_a_rule_is_no_front_matter() -> None:
    assert front_matter("text\n---\nlicense: x\n---\n") == ({}, "text\n---\nlicense: x\n---\n")
    assert front_matter("---\nlicense: x\n") == ({}, "---\nlicense: x\n")
    assert front_matter("---\nlicense: *alias\n---\nx")[1] == "x"


def test_text_keeps_all_but_line_ends() -> None:
    assert text.extract(b"  a \r\n\r\n\r\n b").text == "  a \n\n\n b"


def test_media_types_are_told_by_suffix_and_all_are_read() -> None:
    assert [media_type_of(name) for name in ("a.HTM", "b.md", "c.pdf", "d.rst", "e.exe", "f")] == [
        "text/html",
        "text/markdown",
        "application/pdf",
        "text/plain",
        "",
        "",
    ]
    with pytest.raises(NotTaken, match="image/png; read are"):
        extract.extract(b"x", "image/png")
    assert extract.extract(b"x", "text/plain").text == "x"
