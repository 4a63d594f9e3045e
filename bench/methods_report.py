"""From the results of `methods.py` to tables, to the picture in the docs, and to what `sartor methods` tells."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from figures import cautions, doubts, header, line
from harness import HERE, RESULTS
from sartor import durable
from sartor.methods import MEASURED
from sections import SECTIONS

Json = dict[str, Any]

PICTURE = HERE.parent / "docs" / "methods.svg"
GIB, MIB = 2**30, 2**20
SIGNIFICANT = 0.05
#: Why a method may stay at its base here.
WHY = {
    "attention_fusion": "its 608 numbers weigh the layers before the base's own head; the paper trains a head for the "
    "labels as well, and a language model answers in words",
    "ipt": "2,000 numbers in a space that was drawn, where the paper finds one from prompts of many tasks: after these "
    "steps it answers with words like the labels, and not yet with the labels",
}


def markdown(result: Json) -> str:
    """The page of one result, of either kind."""
    machine = result["machine"]
    where = f"{result['model']}, measured {result['date']} on {machine['processor']}, {machine['num_cores']} cores."
    parts = [where, *(_accuracy(result) if "runs" in result else _costs(result))]
    parts += [f"Left out: {method}: {why}." for method, why in sorted(result["absent"].items())]
    return "\n\n".join(parts) + "\n"


def publish(results: Path = RESULTS) -> None:
    """The newest of both kinds as the product's own resource, and the picture."""
    reached, costs = _newest(results, "methods"), _newest(results, "methods-cost")
    table: dict[str, Json] = {}
    for method, runs in _by_method(reached.get("runs", [])).items():
        table[method] = {"score": statistics.mean(run["tuned"] for run in runs), "seeds": len(runs)}
    for method, (speed, memory) in relative(costs.get("costs", [])).items():
        table.setdefault(method, {}).update(speed=round(speed, 2), memory=round(memory, 2))
    said = {"score": _when(reached), "cost": _cost_note(costs), "methods": dict(sorted(table.items()))}
    durable.write_json(MEASURED, said)
    if reached:
        durable.atomic_write(PICTURE, picture(reached["runs"]))


def relative(costs: Sequence[Json]) -> dict[str, tuple[float, float]]:
    """Speed and memory of each method as multiples of LoRA's in the same round; the median over rounds."""
    rounds: dict[int, dict[str, Json]] = {}
    for cost in costs:
        rounds.setdefault(cost["repeat"], {})[cost["method"]] = cost
    pairs: dict[str, list[tuple[float, float]]] = {}
    for members in rounds.values():
        if "lora" not in members:
            continue
        rate, peak = rate_of(members["lora"]), members["lora"]["peak_bytes"]
        for method, cost in members.items():
            pairs.setdefault(method, []).append((rate_of(cost) / rate, cost["peak_bytes"] / peak))
    return {
        method: (statistics.median(speed for speed, _ in found), statistics.median(memory for _, memory in found))
        for method, found in pairs.items()
    }


def picture(runs: Sequence[Json]) -> str:
    """Accuracy over trainable parameters, as SVG."""
    mpl.rcParams |= {"svg.hashsalt": "sartor", "font.size": 8}
    figure = Figure(figsize=(9, 6), dpi=72, layout="constrained")  # as SVG counts
    axes = figure.subplots()
    points = {
        method: (members[0]["trainable"], 100 * statistics.mean(run["tuned"] for run in members))
        for method, members in _by_method(runs).items()
    }
    axes.axhline(100 * statistics.mean(run["untuned"] for run in runs), color="#999999", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("trainable parameters")
    axes.set_ylabel("held-out accuracy, % (dashed: the untuned base)")
    axes.plot(*zip(*points.values(), strict=True), "o", color="#33658a", markersize=4)
    axes.set_ylim(0, 100)
    figure.draw_without_rendering()  # what stands where is known from here on
    for method, offset in _labels({name: axes.transData.transform(point) for name, point in points.items()}):
        leader = {"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.5, "shrinkB": 2}
        axes.annotate(method, points[method], offset, textcoords="offset pixels", va="center", arrowprops=leader)
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()


def _labels(places: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Where each point's label begins, from the point, in pixels: the nearest place that is free."""
    width, height = 5.0, 9.0  # of a letter
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in places.values()]
    for name, (x, y) in sorted(places.items(), key=lambda pair: -pair[1][1]):
        right, left = 6.0, -6.0 - width * len(name)
        steps = sorted(range(-12, 13), key=abs)
        for across, up in ((side, step * height) for step in steps for side in (right, left)):
            box = (x + across, y + up - height / 2, x + across + width * len(name), y + up + height / 2)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield name, (across, up)
                break


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _accuracy(result: Json) -> Iterator[str]:
    runs = result["runs"]
    yield (
        f"Sections of Debian packages by their one-line descriptions, {len(SECTIONS)} labels. The same rows, steps and "
        "examples a step for all; each method with its own defaults. Accuracy on the held-out items; p against the "
        "untuned base on the same items; perplexity of general text, as a multiple of the base's: what was forgotten."
    )
    if "seeds" in (settings := result.get("settings", {})):
        seeds = ", ".join(map(str, settings["seeds"]))
        yield f"{settings['steps']} steps of {settings['batch_size']} examples; seeds {seeds}, or the first alone."
    rows = header("method", "accuracy", "95 %, first seed", "seeds", "p", "trainable", "weights", "peak", "perplexity")
    ranked = sorted(_by_method(runs).items(), key=lambda pair: -statistics.mean(run["tuned"] for run in pair[1]))
    for method, members in ranked:
        mean = statistics.mean(run["tuned"] for run in members)
        spread = f" ± {100 * statistics.stdev(run['tuned'] for run in members):.1f}" if len(members) > 1 else ""
        first = members[0]
        rows.append(
            line(
                [
                    f"`{method}`",
                    f"{100 * mean:.1f} %{spread}",
                    f"{100 * first['low']:.1f}–{100 * first['high']:.1f} %" if "low" in first else "–",
                    str(len(members)),
                    f"{max(run['p'] for run in members):.1g}",
                    f"{first['trainable']:,}",
                    f"{first['disk_bytes'] / MIB:.2f} MiB",
                    f"{first['peak_bytes'] / GIB:.2f} GiB",
                    f"{statistics.mean(1 + run['forgetting'] for run in members):,.2f} ×",
                ]
            )
        )
    yield "\n".join(rows)
    yield (
        "±: standard deviation over seeds. 95 %: the interval of the first seed, over the held-out items. Methods "
        "whose ranges overlap are not told apart."
    )
    untuned = statistics.mean(run["untuned"] for run in runs)
    yield f"The untuned base: {100 * untuned:.1f} %."
    weak = sorted({run["method"] for run in runs if run["tuned"] <= run["untuned"] or run["p"] >= SIGNIFICANT})
    if weak:
        named = [f"`{name}`" + (f" ({WHY[name]})" if name in WHY else "") for name in weak]
        yield f"Not better than the untuned base beyond chance (p ≥ 0.05): {'; '.join(named)}."


def _costs(result: Json) -> Iterator[str]:
    settings = result["settings"]
    yield (
        f"{settings['repeats']} rounds of all methods, each in a fresh process of {settings['steps']} steps after one "
        "to warm up, on rows of 128 to 384 random tokens, 4 a step; as multiples of LoRA in the same round, medians."
    )
    yield from cautions(result["costs"], settings["repeats"])
    rows = header("method", "speed", "memory")
    for method, (speed, memory) in sorted(relative(result["costs"]).items(), key=lambda pair: -pair[1][0]):
        rows.append(line([f"`{method}`", f"{speed:.2f} ×", f"{memory:.2f} ×"]))
    yield "\n".join(rows)


def _newest(results: Path, kind: str) -> Json:
    """The newest result of a kind; empty where there is none."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    return next((result for result in reversed(found) if result.get("kind") == kind), {})


def _by_method(runs: Sequence[Json]) -> Mapping[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for run in runs:
        found.setdefault(run["method"], []).append(run)
    return found


def rate_of(cost: Json) -> float:
    """Useful tokens a second, by the median step."""
    steps = cost["seconds_per_step"]
    return float(cost["useful_tokens"] / len(steps) / statistics.median(steps))


def _cost_note(result: Json) -> str:
    """When and where speed and memory were measured, and why they must not be quoted, if so."""
    why = "; ".join(doubts(result["costs"], result["settings"]["repeats"])) if result else ""
    return _when(result) + (f" (not to be quoted: {why})" if why else "")


def _when(result: Json) -> str:
    return f"{result['date']}, {result['machine']['processor']}" if result else ""
