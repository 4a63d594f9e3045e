"""PDF by pypdfium2, page by page: words cut at line ends are joined, and running titles and feet are left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sartor.data.extra import needs
from sartor.extract import Extracted, Note, NotTaken, encodings, over

SUMMARY = "PDF: the text of each page; scans without text are not read"
MEDIA_TYPES: tuple[str, ...] = ("application/pdf",)
SUFFIXES: tuple[str, ...] = (".pdf",)

#: Largest file, most pages and longest page: a thick book has 2,000 pages of 3,000 characters.
PDF_BYTES = 128 * 2**20
PDF_PAGES = 5000
PDF_PAGE_CHARACTERS = 200_000
#: How PDFium writes a hyphen at the end of a line.
_HYPHEN = "\ufffe"
#: A line that is the first or last of more than this share of the pages is a running title or foot.
_RUNNING_SHARE = 0.5
#: Fewer pages say nothing about what runs.
_FEWEST_PAGES = 4
#: Lines of a running title or foot, at most.
_RUNNING_LINES = 2


def extract(content: bytes, charset: str = "") -> Extracted:
    """The text of all pages; `about` has their number, and the character at which each starts.

    Raises:
        NotTaken: it is too large or has too many pages, is damaged or locked, or has no text.
    """
    if len(content) > PDF_BYTES:
        raise over("pdf_bytes", len(content), PDF_BYTES, "bytes")
    pdfium = needs("pypdfium2")
    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        reason = "locked" if "password" in str(error).lower() else "damaged"
        raise NotTaken(reason, f"the PDF cannot be opened: {error}") from error
    try:
        if len(document) > PDF_PAGES:
            raise over("pdf_pages", len(document), PDF_PAGES, "pages")
        pages = list(_pages(document))
        title = str(document.get_metadata_dict().get("Title", "")).strip()
    finally:
        document.close()
    bare = [number for number, text in enumerate(pages, start=1) if not text]
    if len(bare) == len(pages):
        raise NotTaken("no_text", f"none of {len(pages):,} pages has text: is it a scan?")
    notes = [Note("pages_without_text", f"{len(bare):,} of {len(pages):,}, first page {bare[0]}")] if bare else []
    running = _running(pages)
    if running:
        shown = ", ".join(f"`{line[:60]}`" for line in sorted(running)[:3])
        notes.append(Note("running_lines", f"left out at the edges of pages, numbers as 0: {shown}"))
    text, starts = _joined([_without(page, running) for page in pages])
    return Extracted(text, title=title, about={"pages": len(pages), "page_starts": starts}, notes=tuple(notes))


def _pages(document: Any) -> Iterator[str]:
    for index in range(len(document)):
        page = document[index]
        reader = page.get_textpage()
        count = reader.count_chars()
        if count > PDF_PAGE_CHARACTERS:
            raise over("pdf_page_characters", count, PDF_PAGE_CHARACTERS, f"characters on page {index + 1}")
        yield _tidy(reader.get_text_range() if count > 0 else "")
        reader.close()
        page.close()


def _tidy(text: str) -> str:
    """Joined words, one kind of line end, no control characters."""
    text = re.sub(rf"[{_HYPHEN}\x02]\s*", "", encodings.lines(text))
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\uffff]", "", text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


def _running(pages: list[str]) -> set[str]:
    """Titles and feet that run over most pages, whatever number they carry."""
    if len(pages) < _FEWEST_PAGES:
        return set()
    edges = Counter(line for page in pages for line in {_numberless(line) for line in _edges(page)})
    return {line for line, count in edges.items() if line and count > _RUNNING_SHARE * len(pages)}


def _edges(page: str) -> list[str]:
    lines = page.split("\n")
    return lines[:_RUNNING_LINES] + lines[-_RUNNING_LINES:]


def _without(page: str, running: set[str]) -> str:
    lines = page.split("\n")
    for _ in range(_RUNNING_LINES):
        if lines and _numberless(lines[0]) in running:
            del lines[0]
        if lines and _numberless(lines[-1]) in running:
            del lines[-1]
    return "\n".join(lines).strip()


def _numberless(line: str) -> str:
    """A line with its numbers made alike: `Chapter 3 … 17` and `Chapter 3 … 18` are one title."""
    return re.sub(r"\d+", "0", line.strip())


def _joined(pages: list[str]) -> tuple[str, list[int]]:
    starts, length = [], 0
    for page in pages:
        starts.append(length)
        length += len(page) + 2
    return "\n\n".join(pages), starts
