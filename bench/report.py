"""From one result file to the table that people read: `python bench/report.py bench/results/NAME.json`.

A rate stands beside its ratio, its interval and the machine's own speed in the same minutes; never alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]

OURS = "sartor"
LABELS = {
    "sartor": "Sartor",
    "trl_default": "TRL, documented defaults",
    "trl_tuned": "TRL, best found",
}
MAX_DRIFT, MAX_FOREIGN, MAX_STEAL = 0.05, 0.02, 0.01
RESAMPLES = 10_000


def rate(run: Json) -> float:
    """Useful tokens a second over the measured steps of one process."""
    return float(run["useful_tokens"] / sum(run["seconds_per_step"]))


def drift(run: Json) -> float:
    """How far the machine's matrix products moved over the run, as a share."""
    before, after = run["plateau_before"], run["plateau_after"]
    return float(abs(after - before) / max(before, after))


def steady(run: Json) -> bool:
    """Whether the machine was ours and stayed as fast as it was."""
    return drift(run) <= MAX_DRIFT and run["foreign"] <= MAX_FOREIGN and run["steal"] <= MAX_STEAL


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median over repeats of ours / theirs, with its 95 % bootstrap interval over repeats (percentiles, seed 0)."""
    ratios = np.asarray(ours) / np.asarray(theirs)
    chosen = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[chosen], axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


def markdown(result: Json) -> str:
    """The whole report of one result file."""
    machine, settings = result["machine"], result["settings"]
    parts = [
        f"Measured {result['date']} on {machine['processor']}, {settings['threads']} threads of {machine['num_cores']} "
        f"cores, {machine['memory_bytes'] / 2**30:.0f} GiB; {settings['repeats']} × {settings['steps']} steps each "
        f"after {settings['warmup']} to warm up, contestants in turn, each in a fresh process.",
        _versions(result["versions"]),
        _agreement(result["runs"]),
        *_cautions(result),
    ]
    for name, facts in result["workloads"].items():
        parts += [_heading(name, facts), _table(result, name)]
    if result["grid"]:
        parts.append(_grid(result["grid"]))
    return "\n\n".join(parts) + "\n"


def _versions(versions: Json) -> str:
    return "; ".join(
        f"{LABELS.get(name, name)}: " + ", ".join(f"{package} {version}" for package, version in packages.items())
        for name, packages in versions.items()
    )


def _agreement(runs: Sequence[Json]) -> str:
    """How far any contestant's first loss is from plain transformers'."""
    bf16, fp32 = (max(run[f"first_loss_error_{dtype}"] for run in runs) for dtype in ("bfloat16", "float32"))
    return (
        f"All trained the same number of tokens; first losses are within {bf16:.2%} of plain transformers in bf16, "
        f"{fp32:.2%} of it in fp32."
    )


def _cautions(result: Json) -> Iterator[str]:
    """Why these figures must not be quoted, if so."""
    runs = result["runs"]
    unsteady = [run for run in runs if not steady(run)]
    if unsteady:
        yield (
            f"**Not to be quoted: in {len(unsteady)} of {len(runs)} runs the machine was not idle or not steady** "
            f"(worst: plateau drift {max(map(drift, runs)):.0%}, other processes "
            f"{max(run['foreign'] for run in runs):.0%}, steal {max(run['steal'] for run in runs):.0%})."
        )
    if not result["grid"] and "trl_tuned" in result["settings"]["contestants"]:
        yield "**TRL's best settings were taken for granted, not looked for: `--grid` does that.**"
    if result["settings"]["repeats"] < 5:
        yield "**Not to be quoted: fewer than five repeats.**"


def _heading(name: str, facts: Json) -> str:
    lengths = facts["lengths"]
    return (
        f"### `{name}`\n\n{facts['rows']} rows from {facts['source']}: {facts['mean_length']:.0f} tokens on average "
        f"({lengths['min']} to {lengths['max']}, median {lengths['p50']}), {facts['supervised_share']:.0%} supervised; "
        f"{facts['flop_per_token'] / 1e6:.0f} MFLOP a useful token."
    )


def _table(result: Json, workload: str) -> str:
    lines = [
        "| | useful tokens/s | supervised tokens/s | padding | share of GEMM plateau | peak memory "
        "| Sartor's rate, times this | Sartor's memory, times this |",
        "|---|---|---|---|---|---|---|---|",
    ]
    flop = result["workloads"][workload]["flop_per_token"]
    ours = _runs(result, workload, OURS)
    lines += [
        _row(name, runs, ours, flop)
        for name in result["settings"]["contestants"]
        if (runs := _runs(result, workload, name))
    ]
    return "\n".join(lines)


def _row(name: str, runs: Sequence[Json], ours: Sequence[Json], flop: float) -> str:
    rates = [rate(run) for run in runs]
    supervised = [run["supervised_tokens"] / sum(run["seconds_per_step"]) for run in runs]
    shares = [rate(run) * flop / (0.5 * (run["plateau_before"] + run["plateau_after"])) for run in runs]
    peaks = [run["peak_bytes"] for run in runs]
    cells = [
        LABELS[name] + "".join(f", {key.replace('_', '-')} {value}" for key, value in runs[0]["options"].items()),
        f"{np.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})",
        f"{np.median(supervised):.0f}",
        f"{np.median([run['padding'] for run in runs]):.0%}",
        f"{np.median(shares):.0%}",
        f"{np.median(peaks) / 2**30:.2f} GiB",
    ]
    if name == OURS:
        return _line([*cells, "–", "–"])
    memory = np.median([run["peak_bytes"] for run in ours]) / np.median(peaks)
    return _line([*cells, _interval([rate(run) for run in ours], rates), f"{memory:.2f} ×"])


def _interval(ours: Sequence[float], theirs: Sequence[float]) -> str:
    middle, low, high = paired_ratio(ours, theirs)
    return f"{middle:.2f} × [{low:.2f}, {high:.2f}]" if len(ours) > 1 else f"{middle:.2f} × (one repeat, no interval)"


def _grid(grid: Sequence[Json]) -> str:
    """What was tried for the best of TRL."""
    lines = [
        "### The grid behind “best found”",
        "",
        "| workload | layout | micro-batch | of the best | padding | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    best: dict[str, float] = {}
    for point in grid:
        best[point["workload"]] = max(best.get(point["workload"], 0.0), rate(point))
    lines += [
        _line(
            [
                point["workload"],
                point["options"]["layout"],
                str(point["options"]["micro_batch"]),
                f"{rate(point) / best[point['workload']]:.0%}",
                f"{point['padding']:.0%}",
                f"{point['peak_bytes'] / 2**30:.2f} GiB",
            ]
        )
        for point in grid
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _runs(result: Json, workload: str, contestant: str) -> list[Json]:
    """The runs of one contestant, in the order of their repeats: so they pair with another's."""
    chosen = [run for run in result["runs"] if run["workload"] == workload and run["contestant"] == contestant]
    return sorted(chosen, key=lambda run: run["repeat"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the table of a result file.")
    parser.add_argument("result", type=Path)
    print(markdown(json.loads(parser.parse_args().result.read_text(encoding="utf-8"))))
