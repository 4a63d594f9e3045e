"""The charts, as SVG for the middle of an HTML page: coloured by the page's own variables, in its own typeface.

Drawn once for a wide column and once for a phone, because text in a scaled picture becomes unreadable. No dates, no
random ids, no names of other hosts: the same numbers give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ElementTree  # it parses only what matplotlib wrote a moment ago
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.proof import ArmResult
from sartor.report import words
from sartor.types import Json

WIDE, NARROW = 680, 350  # user units = CSS pixels at full size
MOST_POINTS = 400  # of a curve: more cannot be seen, and each costs bytes
SMOOTHING = 0.1  # share of the run over which the loss is averaged

_VARIABLES = {  # colours that stand for the page's variables, so that one drawing serves light, dark and print
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    "#040404": "var(--accent)",
    "#050505": "var(--paper)",
}
_INK, _MUTED, _RULE, _ACCENT, _PAPER = _VARIABLES
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "sartor", "font.size": 12.5, "path.simplify": False}
_NAMESPACE = re.compile(r"\{[^}]*\}")
_COLOUR = re.compile("|".join(_VARIABLES))
_FONTS = re.compile(r"font-family:[^;]*;?")
_REFERENCE = re.compile(r"#(?=[A-Za-z])")


@dataclass(frozen=True, slots=True)
class Chart:
    """The same picture for a wide page and for a phone: two strings of SVG."""

    wide: str
    narrow: str


def arms(results: Sequence[ArmResult], goal: float | None, *, title: str, description: str) -> Chart:
    """Each arm's score as a dot on its 95 % interval; tuned arms are filled."""

    def draw(figure: Any, width: int, height: int) -> None:
        top = _upper_end(max([result.high for result in results] + ([goal] if goal else [])))
        axes = _axes(figure, width, height, left=12, right=14, bottom=30, top=6)
        axes.set_xlim(0, top)
        axes.set_ylim(-0.5, len(results) - 0.3)
        axes.set_yticks([])
        ticks = [top * index / 5 for index in range(6)]
        axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
        for row, result in enumerate(reversed(results)):
            axes.vlines(ticks, row - 0.4, row + 0.1, color=_RULE, linewidth=1)
            if goal:
                axes.vlines([goal], row - 0.4, row + 0.1, color=_INK, linewidth=1.4, linestyles=[(0, (3, 2))])
            _draw_arm(axes, row - 0.15, result, top)

    return _both(draw, len(results) * 60 + 36, name="arms", title=title, description=description)


def _draw_arm(axes: Any, row: float, result: ArmResult, top: float) -> None:
    tuned = result.name.startswith("tuned")
    colour = _ACCENT if tuned else _MUTED
    axes.plot([result.low, result.high], [row, row], color=colour, linewidth=3, solid_capstyle="butt", clip_on=False)
    for end in (result.low, result.high):
        axes.plot([end, end], [row - 0.1, row + 0.1], color=colour, linewidth=1.5, clip_on=False)
    axes.plot(
        [result.score],
        [row],
        marker="o",
        markersize=11,
        color=colour if tuned else _PAPER,
        markeredgecolor=colour,
        markeredgewidth=2.5,
        clip_on=False,
        zorder=5,
    )
    weight = "bold" if tuned else "normal"
    above = {"xytext": (0, 19), "textcoords": "offset points", "color": _INK}
    axes.annotate(result.name, (0, row), ha="left", fontweight=weight, **above)
    interval = f"{words.percent(result.score)}  ({words.percent(result.low)} to {words.percent(result.high)})"
    axes.annotate(interval, (top, row), ha="right", fontweight=weight, **above)


def training(events: Sequence[Json], *, title: str, description: str) -> Chart | None:
    """The loss of each step, the same smoothed, and the dev loss; nothing if no step has a finite loss."""
    every = [(event["step"], event["loss"]) for event in events if event["type"] == "stepped"]
    steps, run = _binned([(step, loss) for step, loss in every if math.isfinite(loss)])
    dev = [(event["step"], event["loss"]) for event in events if event["type"] == "evaluated"]
    dev = [(step, loss) for step, loss in dev if math.isfinite(loss)]
    if not steps:
        return None
    label = "each step" if run == 1 else f"mean of {run} steps"

    def draw(figure: Any, width: int, height: int) -> None:
        axes = _axes(figure, width, height, left=44, right=12, bottom=44, top=10)
        axes.grid(axis="y", color=_RULE, linewidth=1)
        axes.plot(*zip(*steps, strict=True), color=_MUTED, linewidth=1, alpha=0.45, label=label)
        axes.plot(*zip(*_smoothed(steps), strict=True), color=_INK, linewidth=2, label="smoothed")
        if dev:
            axes.plot(
                *zip(*dev, strict=True),
                color=_ACCENT,
                linewidth=1.2,
                dashes=(4, 3),
                marker="o",
                markersize=7,
                markeredgecolor=_PAPER,
                label="held-out dev split",
            )
        axes.set_xlim(min(step for step, _ in steps) - 1, max(step for step, _ in [*steps, *dev]) * 1.01)
        axes.set_ylim(*_loss_range([loss for _, loss in [*steps, *dev]]))
        axes.set_xlabel("step", color=_MUTED)
        axes.locator_params(axis="x", integer=True, nbins=8 if width == WIDE else 5)
        axes.locator_params(axis="y", nbins=6)
        axes.legend(loc="upper right", frameon=False, labelcolor=_INK, handlelength=1.6)

    return _both(draw, 290, name="training", title=title, description=description)


def _loss_range(losses: Sequence[float]) -> tuple[float, float]:
    """From zero to above the largest; a single wild step (the top 1 %) does not flatten the rest."""
    ordered = sorted(losses)
    usual = ordered[math.ceil(0.99 * len(ordered)) - 1]
    top = ordered[-1] if ordered[-1] <= 3 * usual else 1.5 * usual
    return 0.0, max(top * 1.08, 1e-6)


def _binned(points: Sequence[tuple[int, float]]) -> tuple[list[tuple[int, float]], int]:
    """At most `MOST_POINTS` points: means over runs of steps, each placed at its last step; and the length of a run."""
    length = math.ceil(len(points) / MOST_POINTS) or 1
    runs = [points[start : start + length] for start in range(0, len(points), length)]
    return [(run[-1][0], sum(loss for _, loss in run) / len(run)) for run in runs], length


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A straight line fitted around each point: a mean would lag behind a loss that falls, and tilt at the ends."""
    reach = max(1, round(SMOOTHING * len(points) / 2))
    smooth = []
    for place, (step, _) in enumerate(points):
        near = points[max(0, place - reach) : place + reach + 1]
        middle, mean = sum(at for at, _ in near) / len(near), sum(loss for _, loss in near) / len(near)
        spread = sum((at - middle) ** 2 for at, _ in near)
        slope = sum((at - middle) * (loss - mean) for at, loss in near) / spread if spread else 0.0
        smooth.append((step, mean + slope * (step - middle)))
    return smooth


def _upper_end(largest: float) -> float:
    """The end of a scale of shares whose fifths are round: 5, 10, 25, 50 or 100 %."""
    return next((end for end in (0.05, 0.1, 0.25, 0.5) if largest <= end), 1.0)


def _axes(figure: Any, width: int, height: int, *, left: int, right: int, bottom: int, top: int) -> Any:
    """Axes with margins in pixels and nothing drawn but a base line."""
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, length=0, pad=6)
    axes.set_axisbelow(True)
    return axes


def _both(draw: Callable[[Any, int, int], None], height: int, *, name: str, title: str, description: str) -> Chart:
    # matplotlib belongs to an extra and takes a second to load; most verbs import this module and draw nothing
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    pictures = []
    for width in (WIDE, NARROW):
        with rc_context(_SETTINGS):
            figure = Figure(figsize=(width / 72, height / 72), facecolor="none")
            draw(figure, width, height)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        pictures.append(_for_html(buffer.getvalue(), f"{name}-{width}", title, description))
    return Chart(*pictures)


def _for_html(drawing: str, prefix: str, title: str, description: str) -> str:
    """A drawing of matplotlib as an element of an HTML page: no namespaces or metadata, ids unique on the page."""
    root = ElementTree.fromstring(drawing)  # noqa: S314 - written by matplotlib, above
    for parent in list(root.iter()):
        for child in list(parent):
            if _NAMESPACE.sub("", child.tag) in ("metadata", "style"):
                parent.remove(child)
    referenced = set(re.findall(r'(?:href="|url\()#([^")]+)', drawing))
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        attributes = {_NAMESPACE.sub("", key): value for key, value in element.attrib.items()}
        if attributes.get("id", "") not in referenced:
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({key: _attribute(key, value, prefix) for key, value in attributes.items()})
        if element.text and not element.text.strip():
            element.text = None
        element.tail = None
    view = root.attrib["viewBox"]
    root.attrib.clear()
    names = {"title": f"{prefix}-title", "desc": f"{prefix}-description"}
    root.attrib.update({"viewBox": view, "role": "img", "aria-labelledby": " ".join(names.values())})
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": names[tag]})
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    if key in ("href", "clip-path"):
        return _REFERENCE.sub(f"#{prefix}-", value)
    if key == "d":
        return " ".join(re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.2f}", value).split())
    return _COLOUR.sub(lambda colour: _VARIABLES[colour[0]], _FONTS.sub("", value))
