"""The page: from the parsed files of a run to one HTML string. Pure: it reads no file and no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sartor import __version__, names
from sartor.plan import Plan
from sartor.proof import ArmResult, Item, Proof
from sartor.report import charts, examples, words
from sartor.types import Json

#: The verdict in a word, and a sign that needs no colour.
VERDICTS = {
    "ship": ("Ship", "✓"),
    "keep_prompting": ("Keep prompting", "↺"),
    "more_data": ("More data", "+"),
    "regression": ("Regression", "✗"),
    "untuned": ("Not tuned yet", "○"),
}
MOST_NOTES = 12  # problems or warnings on the page; the files of the run hold all of them

_FILTERS = {
    function.__name__: function
    for function in (words.percent, words.change, words.points, words.count, words.duration, words.p_value)
} | {"in_words": words.test_in_words}
_LEAVES = ("settings", "template", "environment")  # parts of the plan that are shown on one line
_ELSEWHERE = ("schema", "reasons", "estimate", "data", "model.path", "model.digest", "model.revision")


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the few numbers under the verdict."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm in the table: what it is, and what an answer of it costs on average."""

    result: ArmResult
    summary: str
    prompt_tokens: str
    output_tokens: str
    seconds: str
    tokens_per_right: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a plain table: a name, then its cells."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """What became of the rows, from `check.json`; each part may be empty."""

    facts: tuple[Row, ...]
    dropped: tuple[Row, ...]
    changed: tuple[Row, ...]
    problems: tuple[Json, ...]
    more_problems: int


def render_report(
    *,
    title: str,
    proof: Proof,
    items: Sequence[Item],
    plan: Plan,
    events: Sequence[Json],
    check: Json,
    measured: Json,
) -> str:
    """The report of a run as one HTML page that loads nothing and runs no script.

    Args:
        title: the run's name. items: the lines of `items.jsonl`. events: the events that count, in order. check: the
            parsed `check.json`, or empty. measured: `peak_bytes`, `seconds` and `tokens` of training, as far as known.

    Returns:
        The page; the same arguments give the same characters.
    """
    # jinja2 belongs to an extra; most verbs import this module and render nothing
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sartor", "report"),
        autoescape=True,  # everything a model wrote is hostile text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    tuned = _tuned_arm(proof)
    warnings = [event for event in events if event["type"] == "warned"]
    word, sign = VERDICTS[proof.verdict]
    page = environment.get_template("template.html.jinja").render(
        title=title,
        proof=proof,
        verdict_word=word,
        verdict_sign=sign,
        figures=_figures(proof, tuned),
        arms=[_arm_row(result) for result in proof.arms],
        arms_chart=_arms_chart(proof),
        tuned=tuned,
        opening=examples.opening(items),
        groups=examples.choose(items, proof.best_untuned.name, tuned),
        training_chart=_training_chart(events),
        steps=sum(event["type"] == "stepped" for event in events),
        data=_data(check),
        plan=plan,
        decisions=list(_decisions(plan)),
        forecast=_forecast(plan, measured),
        warnings=warnings[:MOST_NOTES],
        more_warnings=len(warnings) - len(warnings[:MOST_NOTES]),
        version=__version__,
    )
    return words.visible(page)  # control characters and lone surrogates, wherever they came from


def _tuned_arm(proof: Proof) -> str | None:
    """The tuned arm that the verdict speaks of: the first."""
    return next((arm.name for arm in proof.arms if arm.name.startswith("tuned")), None)


def _figures(proof: Proof, tuned: str | None) -> list[Figure]:
    best = proof.best_untuned
    figures = [Figure(f"Best untuned: {best.name}", words.percent(best.score), _interval(best.low, best.high))]
    if tuned:
        arm = proof.arm(tuned)
        figures.append(
            Figure(
                "Tuned" if tuned == "tuned" else f"Tuned: {tuned}",
                words.percent(arm.score),
                _interval(arm.low, arm.high),
            )
        )
    for found in proof.comparisons:
        if (found.a, found.b) == (best.name, tuned):
            interval = f"{words.points(found.low)} to {words.points(found.high)}"
            figures.append(Figure("Difference in points", words.points(found.difference), interval))
    if proof.forgetting:
        limit = f"limit {words.change(proof.forgetting.limit)}"
        figures.append(Figure("Perplexity, general text", words.change(proof.forgetting.change), limit))
    if proof.goal is not None:
        reached = proof.arm(tuned or best.name).score >= proof.goal
        figures.append(Figure("Goal", words.percent(proof.goal), "reached" if reached else "not reached"))
    return figures


def _interval(low: float, high: float) -> str:
    return f"{words.percent(low)} to {words.percent(high)}"


def _arm_row(result: ArmResult) -> ArmRow:
    known = result.name in names.known("arms")  # a run may be older, or its arm come from a package that is gone
    right = result.score * result.n
    tokens = result.prompt_tokens + result.output_tokens
    return ArmRow(
        result=result,
        summary=names.resolve("arms", result.name).SUMMARY if known else "",
        prompt_tokens=words.count(result.prompt_tokens / max(1, result.n)),
        output_tokens=words.count(result.output_tokens / max(1, result.n)),
        seconds=words.duration(result.seconds / max(1, result.n)),
        tokens_per_right=words.count(tokens / right) if right > 0 else "—",
    )


def _arms_chart(proof: Proof) -> charts.Chart:
    said = "; ".join(f"{arm.name} {words.percent(arm.score)}" for arm in proof.arms)
    return charts.arms(
        proof.arms,
        proof.goal,
        title=f"Score of each arm ({proof.metric})",
        description=f"Dots with 95 % intervals. {said}. The table below holds the same numbers.",
    )


def _training_chart(events: Sequence[Json]) -> charts.Chart | None:
    dev = [event["loss"] for event in events if event["type"] == "evaluated"]
    said = f" Dev loss from {dev[0]:.3f} to {dev[-1]:.3f}." if dev else ""
    return charts.training(events, title="Training loss by step", description=f"The loss by optimizer step.{said}")


def _data(check: Json) -> Data:
    counts: Json = check.get("counts", {})
    labels = {
        "rows": "Rows in",
        "kept": "Kept",
        "train": "Training examples",
        "dev": "Dev examples",
        "test": "Test examples",
        "tokens": "Tokens to train on, one pass",
        "supervised_tokens": "Of these supervised",
        "truncated": "Truncated examples",
        "length_median": "Median length in tokens",
        "length_max": "Longest in tokens",
    }
    facts = [Row(label, (words.count(counts[key]),)) for key, label in labels.items() if key in counts]
    dropped: dict[str, int] = counts.get("dropped", {})
    if "kept" in counts:
        facts.insert(2, Row("Dropped", (words.count(sum(dropped.values())),)))
    problems = check.get("problems", [])
    return Data(
        facts=tuple(facts),
        dropped=_reasons(dropped),
        changed=_reasons(counts.get("changed", {})),
        problems=tuple(problems[:MOST_NOTES]),
        more_problems=max(0, len(problems) - MOST_NOTES),
    )


def _reasons(counts: dict[str, int]) -> tuple[Row, ...]:
    return tuple(Row(reason.replace("_", " "), (words.count(number),)) for reason, number in counts.items())


def _decisions(plan: Plan) -> Iterator[Row]:
    """Every decided value with its reason, those that have one first."""
    values = dict(_flat(plan.model_dump(mode="json", by_alias=True)))
    for path in sorted(values, key=lambda path: path not in plan.reasons):
        yield Row(path, (words.plain(values[path]), plan.reasons.get(path, "—")))


def _flat(value: Json, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        place = f"{path}{key}"
        if place in _ELSEWHERE:
            continue
        if isinstance(inner, dict) and key not in _LEAVES:
            yield from _flat(inner, f"{place}.")
        else:
            yield place, inner


def _forecast(plan: Plan, measured: Json) -> list[Row]:
    """Foretold against measured, a row for each of memory, seconds, tokens and speed."""
    foretold = plan.estimate.model_dump()
    found = {key: float(measured[key]) for key in foretold if measured.get(key)}
    for numbers in (foretold, found):
        if numbers.get("seconds") and "tokens" in numbers:
            numbers["speed"] = numbers["tokens"] / numbers["seconds"]
    rows = []
    for key, label, write in (
        ("peak_bytes", "Peak memory", words.size),
        ("seconds", "Training time", words.duration),
        ("tokens", "Tokens", words.count),
        ("speed", "Tokens a second", words.count),
    ):
        if key not in foretold:
            continue
        cells = (write(found[key]), words.against(foretold[key], found[key])) if key in found else ("not measured", "—")
        rows.append(Row(label, (write(foretold[key]), *cells)))
    return rows
