"""Residue of web pages in prose: tags, entities, and lines of buttons and notices.

Mark-up that is meant stays: code, whole pages, and talks that are about mark-up. So `<br>` in a support answer becomes
a line break, and the same in an answer to "how do I break a line in HTML?" does not.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable, Iterator

from pydantic import Field

from sartor.data.clean import Context, Outcome, kept
from sartor.data.clean.texts import question_of
from sartor.data.finding import code, patterns
from sartor.data.finding.mend import Mended, mended, times
from sartor.types import Example, Frozen

SUMMARY = "takes tags, entities and page boilerplate out of prose, and leaves code alone"
REASONS = ("html_tags", "html_entities", "boilerplate")
SELECTS = False
WHOLE = False

_BREAKS = (
    "br|p|div|li|ul|ol|tr|table|tbody|thead|tfoot|h[1-6]|blockquote|section|article|header|footer|hr|dl|dt|dd|center"
)
_WITHIN = (
    "span|em|strong|font|sub|sup|small|big|td|th|img|abbr|cite|label|button|nav|figure|figcaption|picture|source|iframe"
)
_LETTERS = "a|b|i|u|s|q"  # also words of formulas and of types: only where they are closed as well
#: Without quotes no value has a `<` (HTML, 13.1.2.3): `<a b=<a b=…` would else be followed to its end from each tag.
_ATTRIBUTES = r"(?:\s+[a-zA-Z][\w:.-]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>]+))?)*"
_TAG = re.compile(rf"<(/?)({_BREAKS}|{_WITHIN}|{_LETTERS})(?:(?<=\w){_ATTRIBUTES})\s*/?>", re.IGNORECASE)
_VALUED = re.compile(r"=")
_COMMENT = re.compile(r"<!--(?:(?!<!--|-->).)*-->", re.DOTALL)
_BREAKING = re.compile(rf"(?:{_BREAKS})\Z", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_FEWEST_LINES = 3  # of a text in which a line may be boilerplate: alone it may be what is meant
_MANY_BREAKS = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")


class Config(Frozen):
    tags: bool = Field(default=True, description="take tags out of prose")
    entities: bool = Field(default=True, description="write &amp; as &, outside of code")
    boilerplate: bool = Field(default=True, description="take out lines of buttons, cookies and copyrights")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    mend = functools.partial(_mend, config=config)
    for example in rows:
        yield kept(example) if code.asks_for_markup(question_of(example)) else mended(example, mend)


def _mend(text: str, config: Config) -> Mended:
    result = Mended(text)
    tags = config.tags and "<" in text
    entities = config.entities and "&" in text
    lines = config.boilerplate and text.count("\n") >= _FEWEST_LINES - 1
    if not (tags or entities or lines) or code.is_code(code.without_code(text)):
        return result
    if tags:
        _take_tags(result)
    if entities:
        count = len(_ENTITY.findall(code.without_code(result.text)))
        made = code.outside_code(result.text, lambda part: _ENTITY.sub(_unescaped, part))
        result.becomes(made, "html_entities", f"{times(count, 'entity')} written out".replace("entitys", "entities"))
    if lines:
        made, count = _boilerplate().subn("", result.text)
        result.becomes(made if made.strip() else result.text, "boilerplate", f"{times(count, 'line')} taken out")
    return result


def _take_tags(result: Mended) -> None:
    """Take tags and comments out of what is no code. Tags alone are no residue: they stay."""
    closed = {name.lower() for slash, name in _TAG.findall(result.text) if slash}
    count = 0

    def take(part: str) -> str:
        nonlocal count
        part, comments = _COMMENT.subn("", part)
        made, tags = _TAG.subn(lambda tag: _instead(tag, closed), part)
        count += comments + tags
        return made

    made = code.outside_code(result.text, take)
    if made != result.text:
        made = _MANY_BREAKS.sub("\n\n", made).strip() or result.text
    result.becomes(made, "html_tags", f"{times(count, 'tag')} taken out")


@functools.cache
def _boilerplate() -> re.Pattern[str]:
    """Any line of the data file, whole lines only. Each is atomic: a row of links that is none after all would else be
    cut in all ways, of which there are four times as many for each link."""
    lines = "|".join(f"(?>{line})" for line in patterns.lines_of("boilerplate.txt"))
    return re.compile(rf"^[ \t]*(?:{lines})[ \t.!»>…]*$\n?", re.IGNORECASE | re.MULTILINE)


def _instead(tag: re.Match[str], closed: set[str]) -> str:
    """What stands for a tag: a line break, a dash before an item of a list, or nothing. `<b and c>` is no tag."""
    name = tag[2].lower()
    attributes = tag[0][len(tag[1]) + 1 + len(tag[2]) :].strip("/> \t\n")
    is_formula = bool(attributes) and not _VALUED.search(attributes)
    if is_formula or (re.fullmatch(_LETTERS, name) and name not in closed):
        return tag[0]
    if name == "li":
        return "" if tag[1] else "\n- "
    if name in ("td", "th"):
        return " " if tag[1] else ""
    return "\n" if _BREAKING.match(name) else ""


def _unescaped(entity: re.Match[str]) -> str:
    """The character of an entity; a no-break space becomes a space, and an unknown name stays."""
    return html.unescape(entity[0]).replace("\u00a0", " ")
