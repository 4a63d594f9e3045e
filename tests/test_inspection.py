"""A data set as an HTML page that stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from sartor.data.inspect import Asked, inspect
from sartor.report.inspection import Piece, lines_of, pieces, render_inspection
from sartor.types import Chat, LedgerEntry, Message, Source

from .toy_speech import ToySpeech

HOSTILE = "<script>alert(1)</script> \" ' & {{ 7 * 7 }} \x1b \udc80"


def rows(*answers: str) -> list[Chat]:
    return [
        Chat(
            source=Source(file="rows.jsonl", line=line),
            messages=(Message(role="user", content="Where is my refund?"), Message(role="assistant", content=answer)),
        )
        for line, answer in enumerate(answers, start=1)
    ]


class Tags(HTMLParser):
    """The tags of a page, and whether they are closed in their order."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_it_stands_alone_and_runs_nothing() -> None:
    entry = LedgerEntry(action="dropped", file=HOSTILE, line=1, field=HOSTILE, reason=HOSTILE, detail=HOSTILE)
    facts = inspect(rows(HOSTILE, "yes"), [entry], label=HOSTILE, asked=Asked(search="alert"), renderer=ToySpeech())
    page = render_inspection(facts)
    tags = parsed(page)
    assert "script" not in tags.seen
    assert tags.links == ["data:,"]
    assert not re.search(r"https?://", page)
    assert "default-src 'none'" in page
    assert "&lt;script&gt;" in page
    assert "<mark>alert</mark>" in page
    assert "\x1b" not in page
    page.encode("utf-8")
    assert page == render_inspection(facts)


def test_what_it_tells() -> None:
    entry = LedgerEntry(action="changed", file="rows.jsonl", line=2, reason="e_mail", detail="masked: 1 e_mail")
    facts = inspect(rows(*["yes"] * 30, *["no"] * 10), [entry], label="refunds", asked=Asked(reason="e_mail"))
    page = render_inspection(facts)
    for said in (
        "<h1>refunds</h1>",
        "characters of the answer",
        "masked: 1 e_mail",
        "for <em>e_mail</em>: 1.",
        "Answers",
    ):
        assert said in page
    parsed(page)
    assert "There are no rows" in render_inspection(inspect([], label="none"))


def test_tokens() -> None:
    page = render_inspection(inspect(rows("ok"), label="x", renderer=ToySpeech()))
    assert '<span class="token trained">o</span><span class="token trained">k</span>' in page


def test_texts_are_cut_where_words_stand() -> None:
    assert pieces("A refund, Refunded", ("refund",)) == [
        Piece("A ", found=False), Piece("refund", found=True), Piece(", ", found=False), Piece("Refund", found=True),
        Piece("ed", found=False),
    ]  # fmt: skip
    assert pieces("x", ()) == [Piece("x", found=False)]


def test_bars_are_percent_of_the_longest() -> None:
    (spread,) = [spread for spread in inspect(rows("a", "bb", "bb"), label="x").spreads if "answer" in spread.name]
    assert [(line.place, line.count, line.percent) for line in lines_of(spread)] == [("1", 1, 50), ("2", 2, 100)]


def test_long_texts_are_cut_and_it_says_so() -> None:
    page = render_inspection(inspect(rows("y" * 25_000), label="x"))
    assert "5,000 more characters are not shown" in page
