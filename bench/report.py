"""From one result file to the table that people read: `python bench/report.py bench/results/NAME.json`.

A rate stands beside its ratio, its interval and the machine's own speed in the same minutes; never alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures import cautions, header, line, plateau, ratio_words, spread
from harness import OURS, PAGE, RESULTS, say, write
from peers import CONTESTANTS
from reach import MAX_FINAL_ERROR, common_target, seconds_to
from sartor import durable
from sartor.errors import SartorError, UserError
from workload import KINDS

Json = dict[str, Any]


def rate(run: Json) -> float:
    """Useful tokens a second over the measured steps of one process."""
    return float(run["useful_tokens"] / sum(run["seconds_per_step"]))


def utilisation(run: Json, flop_per_token: float) -> float:
    """The work that training needs, by the matrix products this machine sustained before and after."""
    return pace(run) * flop_per_token


def pace(run: Json) -> float:
    """The rate by the machine's own, which drifts."""
    return rate(run) / plateau(run)


def markdown(result: Json) -> str:
    """The whole report of one result file of `train.py`."""
    machine, settings = result["machine"], result["settings"]
    runs = result["runs"] or [run for run in result["reach"] if run["contestant"] != "reference"]
    assumed = not result["grid"] and any(run["contestant"].endswith("_tuned") for run in runs)
    what = "Full fine-tuning" if settings["method"] == "full" else "LoRA r = 16 on all linear layers"
    parts = [
        f"{what} of {result['model']['name']}, measured {result['date']} on {machine['processor']}, "
        f"{settings['threads']} threads of {machine['num_cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB; "
        f"{settings['repeats']} × {settings['steps']} steps each after {settings['warmup']} to warm up, contestants in "
        "turn, each in a fresh process.",
        versions(result),
        *([_agreement(result["runs"]), _same_rows(result["runs"])] if result["runs"] else []),
        *cautions(runs, settings["repeats"]),
        *(["**The tuned peers' settings were taken for granted: `--grid` looks for the best.**"] if assumed else []),
    ]
    for name, facts in result["workloads"].items():
        parts.append(_heading(name, facts))
        parts += [_table(result, name)] if result["runs"] else [_reach(result, name)]
    parts += _absent(result)
    if result["grid"]:
        parts.append(_grid(result["grid"]))
    return "\n\n".join(parts) + "\n"


def versions(result: Json) -> str:
    """The commit that was measured, and which packages each environment had."""
    found, commit = result["versions"], result.get("commit") or "not noted"
    words = [f"{name}: " + ", ".join(f"{key} {value}" for key, value in have.items()) for name, have in found.items()]
    return f"Sartor's commit: {commit}. Environments: " + "; ".join(words) + "."


def _agreement(runs: Sequence[Json]) -> str:
    """How far any contestant's first loss is from plain transformers'."""
    bf16, fp32 = (max(run[f"first_loss_error_{dtype}"] for run in runs) for dtype in ("bfloat16", "float32"))
    return f"First losses are within {bf16:.2%} of plain transformers in bf16, {fp32:.2%} of it in fp32."


def _same_rows(runs: Sequence[Json]) -> str:
    """That all were measured on the same rows, which `train.py` sees to; older results say otherwise."""
    counts: dict[str, set[tuple[int, int]]] = {}
    for run in runs:
        counts.setdefault(run["workload"], set()).add((run["useful_tokens"], run["supervised_tokens"]))
    others = [f"{min(found)} to {max(found)} on {name}" for name, found in counts.items() if len(found) > 1]
    if not others:
        return "All were measured on the same rows."
    return (
        "**Not to be quoted: contestants were measured on other rows.** (Useful, supervised) tokens were from "
        f"{', '.join(others)}."
    )


def _heading(name: str, facts: Json) -> str:
    lengths = facts["lengths"]
    shared = (
        f", the first {facts['shared_prefix']} of them the same in every row" if facts["shared_prefix"] > 99 else ""
    )
    return (
        f"### {name.upper()}: {facts['title']}\n\n{facts['rows']} rows from {facts['source']}; {facts['batch_size']} "
        f"a step. {facts['mean_length']:.0f} tokens on average{shared} (from {lengths['min']} to {lengths['max']}; 5, "
        f"25, 50, 75, 95 %: {', '.join(str(lengths[f'p{percent}']) for percent in (5, 25, 50, 75, 95))}), "
        f"{facts['supervised_share']:.1%} supervised; {facts['flop_per_token'] / 1e6:.0f} MFLOP a useful token."
    )


def _table(result: Json, workload: str) -> str:
    lines = header(
        "",
        "useful tokens/s",
        "supervised tokens/s",
        "padding",
        "algorithmic utilisation",
        "peak memory",
        "whole process",
        "Sartor's rate, times this",
        "Sartor's memory, times this",
    )
    flop = result["workloads"][workload]["flop_per_token"]
    ours = _runs(result["runs"], workload, OURS)
    rows = {name: _runs(result["runs"], workload, name) for name in result["settings"]["contestants"]}
    lines += [_row(name, runs, ours, flop) for name, runs in rows.items() if runs]
    words = list(_summary(rows, ours))
    return "\n".join(lines) + ("\n\n" + " ".join(words) if words else "")


def _summary(rows: dict[str, list[Json]], ours: Sequence[Json]) -> Iterator[str]:
    """Our rate by that of the fastest tuned peer, and by the defaults of the one that most people use."""
    tuned = {name: runs for name, runs in rows.items() if runs and CONTESTANTS[name].tier == "tuned"}
    if tuned and ours:
        best = max(tuned, key=lambda name: float(np.median([rate(run) for run in tuned[name]])))
        who = CONTESTANTS[best].label
        if len(tuned) > 1:
            who = f"the fastest of {len(tuned)} tuned peers measured ({who})"
        yield f"Against {who}: **{_ratio(ours, tuned[best])}**."
    if rows.get("trl_default") and ours:
        yield f"Against TRL's defaults: **{_ratio(ours, rows['trl_default'])}**."


def _ratio(ours: Sequence[Json], theirs: Sequence[Json]) -> str:
    both = {run["repeat"] for run in ours} & {run["repeat"] for run in theirs}
    mine, other = ([rate(run) for run in runs if run["repeat"] in both] for runs in (ours, theirs))
    return ratio_words(mine, other)


def _row(name: str, runs: Sequence[Json], ours: Sequence[Json], flop: float) -> str:
    rates = [rate(run) for run in runs]
    supervised = [run["supervised_tokens"] / sum(run["seconds_per_step"]) for run in runs]
    peaks = [run["peak_bytes"] for run in runs]
    walls = [run["wall_seconds"] for run in runs if "wall_seconds" in run]  # older results lack it
    cells = [
        label(name, runs[0]["options"]),
        spread(rates, ".0f"),
        f"{np.median(supervised):.0f}",
        f"{np.median([run['padding'] for run in runs]):.0%}",
        f"{np.median([utilisation(run, flop) for run in runs]):.0%}",
        f"{np.median(peaks) / 2**30:.2f} GiB",
        f"{np.median(walls):.0f} s" if walls else "–",
    ]
    if name == OURS or not ours:
        return line([*cells, "–", "–"])
    memory = np.median([run["peak_bytes"] for run in ours]) / np.median(peaks)
    return line([*cells, _ratio(ours, runs), f"{memory:.2f} ×"])


def label(name: str, options: Json) -> str:
    """A contestant with the settings that were best."""
    own = {key: value for key, value in options.items() if key != "tier"}
    return CONTESTANTS[name].label + "".join(f", {key.replace('_', '-')} {value}" for key, value in own.items())


def _reach(result: Json, workload: str) -> str:
    """Time to a held-out loss, as ratios of ours; and where each one ended."""
    runs = [run for run in result["reach"] if run["workload"] == workload]
    reference = [run["points"][-1][1] for run in runs if run["contestant"] == "reference"]
    timed = [run for run in runs if run["contestant"] != "reference"]
    if not timed:
        return "Nobody exported an adapter."
    target = result["settings"]["target"] or common_target(timed)
    ours = [seconds_to(run["points"], target) for run in _runs(timed, workload, OURS)]
    lines = header(
        "", f"to a held-out loss of {target:.4f}, times Sartor's time", "last held-out loss", "by the reference"
    )
    for name in result["settings"]["contestants"]:
        if not (mine := _runs(timed, workload, name)):
            continue
        last = float(np.median([run["points"][-1][1] for run in mine]))
        error = last / reference[0] - 1.0 if reference else float("nan")
        verdict = f"{error:+.2%}" + ("" if abs(error) <= MAX_FINAL_ERROR else ", not within 0.5 %")
        times = [seconds_to(run["points"], target) for run in mine]
        reached = all(map(np.isfinite, [*times, *ours]))
        ratio = "–" if name == OURS or not ours else ratio_words(times, ours) if reached else "not reached by both"
        lines.append(line([label(name, mine[0]["options"]), ratio, f"{last:.4f}", verdict if reference else "–"]))
    start = timed[0]["points"][0][1]
    return (
        "\n".join(lines) + f"\n\nScored by `contestants/reference.py` on the exported adapters; {start:.4f} untrained."
    )


def _absent(result: Json) -> Iterator[str]:
    """Who was not measured, and why."""
    absent, settings = result["absent"], result["settings"]
    reasons = [
        f"- {CONTESTANTS[name].label}, {where}: {reason}"
        for name, places in absent.items()
        for where, reason in places.items()
    ]
    others = [
        item.label
        for name, item in CONTESTANTS.items()
        if settings["method"] in item.methods and name not in {*settings["contestants"], *absent}
    ]
    if reasons:
        yield "### Not measured\n\n" + "\n".join(reasons)
    if others:
        yield f"Not asked for: {'; '.join(others)}."


def _grid(grid: Sequence[Json]) -> str:
    """What was tried for the best of each peer."""
    lines = ["### The grid behind “tuned”", "", "Rates are taken by the machine's own in the same minutes.", ""]
    lines += header("workload", "", "of the best", "padding", "peak memory")
    best: dict[tuple[str, str], float] = {}
    for point in grid:
        if "failed" in point:
            continue
        key = point["workload"], point["contestant"]
        best[key] = max(best.get(key, 0.0), pace(point))
    for point in grid:
        cells = [point["workload"], label(point["contestant"], point["options"])]
        if "failed" in point:
            lines.append(line([*cells, f"failed: {point['failed']}", "–", "–"]))
            continue
        share = pace(point) / best[point["workload"], point["contestant"]]
        lines.append(
            line([*cells, f"{share:.0%}", f"{point['padding']:.0%}", f"{point['peak_bytes'] / 2**30:.2f} GiB"])
        )
    return "\n".join(lines)


def _runs(runs: Sequence[Json], workload: str, contestant: str) -> list[Json]:
    """The runs of one contestant, in the order of their repeats: so they pair with another's."""
    chosen = [run for run in runs if run["workload"] == workload and run["contestant"] == contestant]
    return sorted(chosen, key=lambda run: run["repeat"])


# ---- the page of the docs --------------------------------------------------------------------------------------------

SECTIONS = {
    "": "Training, LoRA",
    "full": "Training, full fine-tuning",
    "to-loss": "Time to a loss",
    "full-to-loss": "Time to a loss, full fine-tuning",
    "memory": "Predicted and measured",
    "overhead": "A whole run beside its computing",
    "generate": "Generation",
    "methods": "Tuning methods",
    "methods-cost": "Tuning methods, speed and memory",
    "quantised": "A base of four bits",
    "data-read": "Data: reading",
    "data-hostile": "Data: broken rows, bombs and control tokens",
    "data-near": "Data: near duplicates",
    "data-labels": "Data: noisy labels",
    "pii": "Data: personal identifiers",
}


#: What a kind names where not everything was measured: workloads of `train.py`, and scenes of `generate.py`.
PARTS = (*KINDS, "mixed", "shared", "one", "four")


def command(description: str, threads: int = 2) -> argparse.ArgumentParser:
    """A benchmark's command line, with what all of them take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=positive, default=threads)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def section(kind: str) -> str:
    """The section of a kind: the kind without the parts, which it names where not all were measured."""
    return "-".join(part for part in kind.split("-") if part not in PARTS)


def positive(words: str) -> int:
    """An argument that counts something: at least 1."""
    if (number := int(words)) < 1:
        raise ValueError(words)
    return number


def require_whole(options: argparse.Namespace, *, whole: bool) -> None:
    """Keep a part of a benchmark off the page, where it would replace the whole.

    Raises:
        UserError: it was to go there.
    """
    if options.results == RESULTS and not whole:
        raise UserError("a part of it would replace the whole on the page", hint="name a folder with --results")


def deliver(
    measure: Callable[[argparse.Namespace], Json], page_of: Callable[[Json], str], options: argparse.Namespace
) -> int:
    """Measure, write and print: what each benchmark's command does. The exit code is 0, or that of the error."""
    try:
        _require_writable(options.results)
        result = measure(options)
        page = page_of(result)
        path = write(result, options.results, page)
        if options.results == RESULTS:
            write_page(RESULTS)
    except SartorError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(page)
    say(f"written: {path} and its .md")
    return 0


def _require_writable(folder: Path) -> None:
    """Before hours are measured.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}", hint="name another folder with --results") from error


def write_page(results: Path, page: Path = PAGE) -> None:
    """The docs' page, from the newest result of each kind on each processor."""
    newest: dict[str, dict[str, Path]] = {}
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        newest.setdefault(result["kind"], {})[result["machine"]["processor"]] = path.with_suffix(".md")
    parts = [
        "# Measured against its peers",
        "Made by the scripts in `bench/` from the newest result of each kind on each processor, and not by hand; "
        "`bench/README.md` says how to repeat it, and what each figure means.",
    ]
    for name, title in SECTIONS.items():
        kinds = sorted(kind for kind in newest if section(kind) == name)
        pages = [page.read_text(encoding="utf-8").strip() for kind in kinds for page in newest[kind].values()]
        parts += [f"## {title}", *pages] if pages else []
    durable.atomic_write(page, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the table of a training result.")
    parser.add_argument("result", type=Path)
    print(markdown(json.loads(parser.parse_args().result.read_text(encoding="utf-8"))))
