"""PDF by pypdfium2, page by page: words cut at line ends are joined, and running titles and feet are left out."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from typing import Any

from sartor.data.extra import needs
from sartor.extract import Extracted, Note, NotTaken, encodings, over

SUMMARY = "PDF: the text of each page; scans without text are not read"
MEDIA_TYPES: tuple[str, ...] = ("application/pdf",)
SUFFIXES: tuple[str, ...] = (".pdf",)

#: Largest file, most pages, longest page and longest text: a thick book has 2,000 pages of 3,000 characters. Pages may
#: share what they show, so that a small file has much text: 869 bytes had 784,000 characters.
PDF_BYTES = 128 * 2**20
PDF_PAGES = 5000
PDF_PAGE_CHARACTERS = 200_000
PDF_CHARACTERS = 20_000_000
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
        NotTaken: it is too large or has too many pages or characters, is damaged or locked, or has no text.
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
        pages, damaged = _pages(document, pdfium.PdfiumError)
        title, notes = _title(document)
    finally:
        document.close()
    if damaged:
        said = f"{_counted([*damaged], pages)}: {next(iter(damaged.values()))}"
        if not any(pages):
            raise NotTaken("damaged", f"no page has text; damaged are {said}")
        notes.append(Note("damaged_pages", said))
    if not any(pages):
        raise NotTaken("no_text", f"none of {len(pages):,} pages has text: is it a scan?")
    bare = [number for number, text in enumerate(pages, start=1) if not text and number not in damaged]
    if bare:
        notes.append(Note("pages_without_text", _counted(bare, pages)))
    running = _running(pages)
    if running:
        shown = ", ".join(f"`{line[:60]}`" for line in sorted(running)[:3])
        notes.append(Note("running_lines", f"left out at the edges of pages, numbers as 0: {shown}"))
    text, starts = _joined([_without(page, running) for page in pages])
    return Extracted(text, title=title, about={"pages": len(pages), "page_starts": starts}, notes=tuple(notes))


def _pages(document: Any, broken: type[Exception]) -> tuple[list[str], dict[int, str]]:
    """The text of every page; of one that is damaged none, and its number with what is wrong."""
    pages: list[str] = []
    damaged: dict[int, str] = {}
    total = 0
    for number in range(1, len(document) + 1):
        try:
            with closing(document[number - 1]) as page, closing(page.get_textpage()) as reader:
                count = reader.count_chars()
                if count > PDF_PAGE_CHARACTERS:
                    raise over("pdf_page_characters", count, PDF_PAGE_CHARACTERS, f"characters on page {number}")
                total += count
                if total > PDF_CHARACTERS:
                    raise over("pdf_characters", total, PDF_CHARACTERS, f"characters up to page {number}")
                pages.append(_tidy(reader.get_text_range() if count > 0 else ""))
        except broken as error:
            pages.append("")
            damaged[number] = str(error)
    return pages, damaged


def _title(document: Any) -> tuple[str, list[Note]]:
    try:
        return document.get_metadata_value("Title").strip(), []
    except UnicodeDecodeError as error:
        return "", [Note("damaged_title", f"it cannot be read: {error.reason}")]


def _counted(numbers: list[int], pages: list[str]) -> str:
    return f"{len(numbers):,} of {len(pages):,}, first page {numbers[0]}"


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
