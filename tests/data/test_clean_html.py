"""Residue of web pages in prose, and mark-up that is meant."""

from __future__ import annotations

import pytest

from .rows import answer, outcomes, reasons, talk, text


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("Hello<br>there<br/>you", "Hello\nthere\nyou"),
        ("<p>One.</p><p>Two <b>bold</b> words.</p>", "One.\n\nTwo bold words."),
        ('<div class="x"><span style="a:b">Text</span></div>', "Text"),
        ("See <a href='http://x.net'>this page</a>.", "See this page."),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("fish &amp; chips &lt;3&nbsp;&#233;", "fish & chips <3 é"),
        ("a <!-- note --> b", "a  b"),
    ],
)
def test_residue_goes(written: str, left: str) -> None:
    assert answer("html", talk(written)) == left


@pytest.mark.timeout(20)  # followed to the end from each tag, this takes minutes
def test_a_long_row_of_tags_that_never_end_is_left_alone() -> None:
    written = "<a b=" * 8000
    assert answer("html", talk(written)) == written


@pytest.mark.timeout(20)  # cut in all ways, these links take longer than anybody lives
def test_a_row_of_links_is_boilerplate_and_a_long_one_that_is_none_stays() -> None:
    links = "Privacy policy" + " | terms of use" * 40
    assert answer("html", talk(f"One.\nTwo.\n{links} ...")) == "One.\nTwo.\n"
    assert reasons("html", talk(f"One.\nTwo.\n{links} (all of them)")) == []


@pytest.mark.parametrize(
    "written",
    [
        "if a < b and c > d",
        "for all a <b and c> d",
        "List<i> and Map<b>",
        "Use `<br>` and `&amp;`.",
        "x <y@z.org>",
        "Write:\n```html\n<p>Hi &amp; bye</p>\n```\nDone.",
        "<!DOCTYPE html><html><body><p>x</p></body></html>",
        "AT&T, R&D; fish & chips",
        "<script>let a = 1;</script><p>x</p>",
        "The <b> key",
        "&unknown;",
        "<p></p>",
    ],
)
def test_what_is_meant_stays(written: str) -> None:
    assert reasons("html", talk(written)) == []


def test_in_talks_about_markup_nothing_is_touched() -> None:
    assert reasons("html", talk("Use <br> and &nbsp; there", "How do I break a line in HTML?")) == []
    assert reasons("html", talk("Use <br> there", "How do I find peace?")) == ["html_tags"]


def test_lines_of_buttons_go() -> None:
    page = "Skip to content\nThe heron is a bird.\nIt waits.\nShare on Facebook\nPrivacy Policy | Terms of Use\n"
    (outcome,) = outcomes("html", [text(page)])
    assert outcome.example == text("The heron is a bird.\nIt waits.\n")
    assert [entry.detail for entry in outcome.entries] == ["3 lines taken out"]
    assert reasons("html", talk("Read more")) == []


def test_each_part_can_be_left() -> None:
    row = talk("<br>fish &amp; chips")
    assert answer("html", row, tags=False) == "<br>fish & chips"
    assert answer("html", row, entities=False) == "fish &amp; chips"
    (outcome,) = outcomes("html", [row])
    assert [(entry.reason, entry.detail) for entry in outcome.entries] == [
        ("html_tags", "1 tag taken out"),
        ("html_entities", "1 entity written out"),
    ]
