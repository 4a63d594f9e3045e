"""HTML: the text that people read, what the page says of itself, and pages that are made to hurt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.extract import NotTaken, html
from sartor.extract.nesting import DEPTH, measured

LONG = "Fish live in water, and water is wet; that is why fish never dry their fins. " * 4


def page(body: str, head: str = "") -> bytes:
    return f"<!doctype html><html lang=de-CH><head>{head}</head><body>{body}</body></html>".encode()


def test_the_main_text_without_menus_scripts_and_marks() -> None:
    body = f"""<nav><ul><li><a href=/>Home</a><li><a href=/x>Elsewhere</a></ul></nav>
    <main><h1>Fish<a class="headerlink" href="#fish">¶</a></h1><p>{LONG}</p><pre>a  b
      c</pre><script>var x = "hidden";</script><style>p {{}}</style></main><footer>Imprint</footer>"""
    found = html.extract(page(body, "<title> All \n about  fish </title>"))
    assert found.title == "All about fish" and found.about == {"language": "de-ch"}
    assert found.text.startswith("Fish\n\nFish live") and "a  b\n      c" in found.text
    assert not any(word in found.text for word in ("¶", "hidden", "Home", "Elsewhere", "{}"))
    assert "\n\n\n" not in found.text and found.notes == ()


def test_a_short_page_is_taken_whole_and_a_list_of_links_is_not() -> None:
    found = html.extract(page("<div class=footer>Foot</div><ul><li>One rule.</li><li>No other rule.</li></ul>"))
    assert "One rule." in found.text and "Foot" not in found.text
    links = html.extract(page("<ul>" + "<li><a href=/a>A chapter of the book</a></li>" * 9 + "</ul>"))
    assert links.text == "" and links.links == ("/a",)


def test_what_the_page_says_of_itself() -> None:
    head = """<base href="/docs/"><link rel="canonical" href="/fish"><meta name=ROBOTS content="NoIndex, nofollow">
    <meta name="sartor" content="noai"><meta name="tdm-reservation" content="1"><meta name=googlebot content=none>
    <meta name="dcterms.license" content="https://creativecommons.org/publicdomain/zero/1.0/">"""
    found = html.extract(page('<p>Hi</p><a href=" a ">a</a><a href=b rel="nofollow ugc">b</a><area href=c>', head))
    assert found.robots == {"noindex", "nofollow", "noai", "tdm-reservation"}
    assert (found.base, found.canonical, found.licence, found.links) == ("/docs/", "/fish", "CC0-1.0", ("a", "c"))
    licensed = html.extract(page('<a rel=license href="https://www.opensource.org/licenses/MIT">MIT</a> text'))
    assert licensed.licence == "MIT"


def test_encodings_of_pages() -> None:
    said = '<meta charset="koi8-r">' + "<p>Привет, мир</p>"
    assert "Привет" in html.extract(said.encode("koi8-r")).text
    assert "Grüße" in html.extract("<p>Grüße</p>".encode("latin-1"), "iso-8859-1").text
    assert html.extract("<p>Grüße</p>".encode()).notes == html.extract("<p>Grüße</p>".encode(), "latin-1").notes


@pytest.mark.parametrize(
    "markup",
    [
        "<div>" * 3000,
        "<p><b id=1>" * 3000,
        "<span><a>" * 400,
        "<table><tr><td>" * 600,
        "<DIV\n>" * 600,
        "<optgroup>" * 600,
        "<i x='</i>'>" * 600,
        "<i><!-- </i> -->" * 600,
        "<i><script></i></script>" * 600,
    ],
)
def test_deep_pages_are_refused_before_they_are_parsed(markup: str) -> None:
    with pytest.raises(NotTaken, match="the limit html_depth is 512"):
        html.extract(markup.encode())


@pytest.mark.parametrize("markup", ["<p>a" * 3000, "<li>a<br>" * 3000, "<div><b>x</b></div>" * 3000, "</b>" * 3000])
def test_long_pages_are_not_deep(markup: str) -> None:
    assert measured(markup)[0] <= 2
    html.extract(markup.encode())


def test_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "HTML_BYTES", 100)
    with pytest.raises(NotTaken, match="the limit html_bytes is 100"):
        html.extract(page(LONG))


@pytest.mark.parametrize("markup", ["<p>", "</p>", "<br/>", "<!-- --><hr>"])
def test_too_many_tags_are_named(markup: str) -> None:
    with pytest.raises(NotTaken, match="the limit html_tags is 400,000"):
        html.extract(markup.encode() * 400_001)


TAGS = st.sampled_from(
    ["<div>", "</div>", "<p>", "<b>", "</b>", "<!--", "-->", "<script>", "</script>", '<a href="', '">']
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(TAGS, st.text(max_size=6)), max_size=60).map("".join))
def test_whatever_is_written_is_read_or_refused(markup: str) -> None:
    try:
        found = html.extract(markup.encode("utf-8", "surrogatepass"))
    except NotTaken as error:
        assert error.reason in ("binary", "encoding")
    else:
        assert measured(markup)[0] <= DEPTH and isinstance(found.text, str)
