"""A data set as one HTML page that stands alone: nothing is loaded from elsewhere, no script runs. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sartor import __version__
from sartor.data.inspect import words_of
from sartor.report import words

if TYPE_CHECKING:
    from sartor.data.inspect import Facts, Spread

_MOST_LABELS = 50
_MOST_TEXT = 20_000  # characters of one text of a row


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a histogram: where, how many, and how long its bar is, in percent of the longest."""

    place: str
    count: int
    percent: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, and whether a search found it."""

    text: str
    found: bool


def render_inspection(facts: Facts) -> str:
    """The page; the same facts give the same characters."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # of an extra, as in `page`

    environment = Environment(
        loader=PackageLoader("sartor", "report"),
        autoescape=True,  # everything in a data set is hostile text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({"count": words.count, "percent": words.percent})
    searched = words_of(facts.asked.search)
    environment.filters["pieces"] = lambda text: pieces(text[:_MOST_TEXT], searched)
    page = environment.get_template("inspection.html.jinja").render(
        facts=facts,
        histograms=[(spread, lines_of(spread)) for spread in facts.spreads],
        labels=_labels(facts.labels),
        more_labels=max(0, len(facts.labels) - _MOST_LABELS),
        most_text=_MOST_TEXT,
        version=__version__,
    )
    return words.visible(page)


def lines_of(spread: Spread) -> list[Line]:
    """The histogram of one number."""
    most = max(bar.count for bar in spread.bars)
    lines = []
    for bar in spread.bars:
        if bar.high == bar.low + 1:
            place = words.count(bar.low)
        else:
            low = words.count(bar.low)
            place = f"{low} to {words.count(bar.high - 1)}" if bar.high else f"{low} and more"
        lines.append(Line(place, bar.count, 100 * bar.count / most))
    return lines


def pieces(text: str, searched: tuple[str, ...]) -> list[Piece]:
    """A text cut where the searched words stand."""
    if not searched:
        return [Piece(text, found=False)]
    pattern = re.compile("|".join(map(re.escape, sorted(searched, key=len, reverse=True))), re.IGNORECASE)
    cut, end = [], 0
    for match in pattern.finditer(text):
        cut += [Piece(text[end : match.start()], found=False), Piece(match[0], found=True)]
        end = match.end()
    return [piece for piece in (*cut, Piece(text[end:], found=False)) if piece.text]


def _labels(labels: dict[str, int]) -> list[Line]:
    most = max(labels.values(), default=1)
    return [Line(name, number, 100 * number / most) for name, number in list(labels.items())[:_MOST_LABELS]]
