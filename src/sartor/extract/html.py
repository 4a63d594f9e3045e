"""HTML by resiliparse: the main text without menus, and what the page says of itself."""

from __future__ import annotations

import re
from typing import Any

from sartor.data.extra import needs
from sartor.extract import Extracted, Note, encodings, licences, nesting, over

SUMMARY = "web pages: the main text, without menus, scripts and forms"
MEDIA_TYPES: tuple[str, ...] = ("text/html", "application/xhtml+xml")
SUFFIXES: tuple[str, ...] = (".html", ".htm", ".xhtml")

#: Longest page, in bytes; the median page of the web has 30 KB.
HTML_BYTES = 8 * 2**20
#: Marks beside headings that link to themselves, and what is there for machines.
_SKIPPED = ["a.headerlink", "a.anchor", "a.permalink", "[aria-hidden=true]", "script", "style", "template"]
#: What stands around a text, where a page says so itself.
_AROUND = ["nav", "header", "footer", "aside", "form", "[role=navigation]", "[role=search]", ".related", ".footer"]
#: A main text of fewer characters may be no more than what the heuristics left; a page with less than this share of
#: text that is no link leads to texts, and is none.
_SHORT, _UNLINKED = 200, 0.5
#: Beside a list of links fewer characters than this are its heading, and no text.
_HEADING = 80
_LICENCE_NAMES = frozenset({"dc.rights", "dcterms.rights", "dcterms.license", "license", "licence"})
_ROBOTS_NAMES = frozenset({"robots", "sartor"})
#: Elements that say something of the page, or lead to another.
_TELLING = "a[href], area[href], link[href], base[href], meta[content]"
#: Links whose page somebody does not vouch for: `nofollow` asks a crawler to leave them.
_NOFOLLOW = "nofollow"


def extract(content: bytes, charset: str = "") -> Extracted:
    """The main text of a page; headings, lists and code keep their lines.

    Raises:
        NotTaken: it is too large or nested too deep, or no text.
    """
    if len(content) > HTML_BYTES:
        raise over("html_bytes", len(content), HTML_BYTES, "bytes")
    markup, notes = encodings.decode(content, charset, html=True)
    deep, num_tags = nesting.measured(markup)
    if deep > nesting.DEPTH:
        raise over("html_depth", deep, nesting.DEPTH, "elements or more open at once")
    if num_tags > nesting.TAGS:
        raise over("html_tags", num_tags, nesting.TAGS, "tags or more")
    needs("resiliparse")
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(markup)
    text, how = _text(tree)
    found = _head(tree)
    language = _language(tree)
    return Extracted(
        text,
        title=" ".join((tree.title or "").split()),
        licence=found["licence"],
        about={"language": language} if language else {},
        notes=(*notes, *how),
        links=tuple(found["links"]),
        base=found["base"],
        canonical=found["canonical"],
        robots=frozenset(found["robots"]),
    )


def _text(tree: Any) -> tuple[str, tuple[Note, ...]]:
    """The main text; of a short page all of its text, unless it is a list of links, which has none."""
    from resiliparse.extract.html2text import extract_plain_text

    main = _tidy(extract_plain_text(tree, main_content=True, alt_texts=False, skip_elements=_SKIPPED))
    if len(main) >= _SHORT or tree.body is None:
        return main, ()
    whole = _tidy(extract_plain_text(tree, alt_texts=False, skip_elements=[*_SKIPPED, *_AROUND]))
    unlinked = _tidy(extract_plain_text(tree, alt_texts=False, skip_elements=[*_SKIPPED, *_AROUND, "a"]))
    if len(unlinked) < _UNLINKED * len(whole):
        return main if len(main) >= _HEADING else "", ()
    if len(whole) <= len(main):
        return main, ()
    return whole, (
        Note("whole_page", f"{len(main):,} characters looked like its main text: all {len(whole):,} are taken"),
    )


def _head(tree: Any) -> dict[str, Any]:
    """Licence, canonical address, base, words for robots, and links, in one pass over the elements that have them."""
    found: dict[str, Any] = {"licence": "", "canonical": "", "base": "", "robots": set(), "links": {}}
    for element in tree.document.query_selector_all(_TELLING)[:]:  # a slice: going through by index is quadratic
        href, relations = (element.getattr("href") or "").strip(), set((element.getattr("rel") or "").lower().split())
        if element.tag == "meta":
            _meta(element, found)
        elif element.tag == "base":
            found["base"] = found["base"] or href
        elif "license" in relations:
            found["licence"] = found["licence"] or licences.from_address(href)
        elif element.tag == "link":
            if "canonical" in relations:
                found["canonical"] = found["canonical"] or href
        elif _NOFOLLOW not in relations:
            found["links"].setdefault(href)
    return found


def _meta(element: Any, found: dict[str, Any]) -> None:
    name, content = (element.getattr("name") or "").strip().lower(), element.getattr("content").strip()
    if name in _ROBOTS_NAMES:
        found["robots"].update(word.strip() for word in content.lower().split(","))
    elif name == "tdm-reservation" and content == "1":
        found["robots"].add("tdm-reservation")
    elif name in _LICENCE_NAMES and content:
        found["licence"] = found["licence"] or licences.from_address(content)


def _language(tree: Any) -> str:
    root = tree.document.query_selector("html[lang]")
    return root.getattr("lang").strip().lower() if root else ""


def _tidy(text: str) -> str:
    """Without spaces at the ends of lines, and never more than one empty line."""
    text = "\n".join(line.rstrip() for line in encodings.lines(text).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip()
