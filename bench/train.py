"""The training benchmark: `python bench/train.py --repeats 5 --grid`. Builds the workloads, takes turns, reports.

Every contestant is a fresh process in its own environment; between two of them the machine's matrix products are
measured. A contestant that trained other tokens, or whose first loss is not the reference's, is left out and the result
says so; if it is ours, the benchmark stops.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import reach
import report
import workload as workloads
from contestants.common import RANK
from harness import CACHE, CALLS, MODEL, OURS, PACKAGE, Machine, say
from peers import CONTESTANTS
from sartor.errors import MachineError, Refused
from sartor.hub import find, shape
from sartor.recipe import ModelSpec

Json = dict[str, Any]

GRID_STEPS = 3
#: Against the type that all multiply in; bf16 itself is up to 0.008 from fp32 where a step has few supervised tokens.
MAX_LOSS_ERROR = 0.01
DTYPES = ("bfloat16", "float32")


@dataclass
class Bench:
    """One run of the benchmark: what was asked, and what is known of the reference's losses so far."""

    model: Path
    machine: Machine
    warmup: int
    method: str = "lora"
    reference: dict[tuple[str, str, int], float] = field(default_factory=dict)

    def run(self, name: str, workload: str, *, steps: int, options: Json) -> Json:
        """One contestant in a fresh process: its result, and what the machine did meanwhile."""
        contestant = CONTESTANTS[name]
        script = harness.HERE / "contestants" / contestant.script
        return self.machine.measured(contestant.environment, script, self.arguments(workload, steps, options))

    def arguments(self, workload: str, steps: int, options: Json) -> list[str]:
        """The command line of any contestant."""
        options = {"method": self.method, "dtype": harness.dtype(), **options}
        arguments = ["--workload", str(CACHE / "workloads" / f"{workload}.json"), "--model", str(self.model)]
        return [*arguments, "--steps", str(steps), "--warmup", str(self.warmup), "--options", json.dumps(options)]

    def judge(self, name: str, workload: workloads.Workload, result: Json, *, steps: int) -> Json:
        """Whether a contestant did the same work: how far its first loss is from the reference's, as shares.

        Raises:
            Refused: it trained on other rows or another number of tokens, or its first loss is not that of those rows.
        """
        measured = workload.rows(self.warmup * workload.batch_size, (self.warmup + steps) * workload.batch_size)
        for key, wanted in (("useful_tokens", measured.num_tokens), ("supervised_tokens", measured.num_supervised)):
            if result[key] != wanted:
                raise Refused(
                    f"{name} on {workload.name}: measured {result[key]} {key.replace('_', ' ')}, not {wanted}",
                    hint="it moves rows between its warm-up and what is measured: look at its sampler",
                )
        if result["trained_tokens"] != result["supervised_tokens"]:
            trained, wanted = result["trained_tokens"], result["supervised_tokens"]
            raise Refused(
                f"{name} on {workload.name}: trained {trained} tokens, not {wanted}",
                hint="its labels are not ours: look at masking, truncation and the shift",
            )
        groups = result["first_groups"]
        judge = harness.dtype()
        missing = [row for group in groups for row in group if (judge, workload.name, row) not in self.reference]
        if missing:
            script = harness.HERE / "contestants" / "reference.py"
            found = self.machine.process(OURS, script, self.arguments(workload.name, steps, {"rows": missing}))
            for dtype in DTYPES:
                self.reference |= {(dtype, workload.name, int(row)): value for row, value in found[dtype].items()}
        means = {dtype: self.mean_loss(dtype, workload, groups) for dtype in DTYPES}
        errors = {f"first_loss_error_{dtype}": abs(result["first_loss"] / means[dtype] - 1.0) for dtype in DTYPES}
        if not errors[f"first_loss_error_{judge}"] <= MAX_LOSS_ERROR:  # so that NaN is refused too
            raise Refused(
                f"{name} on {workload.name}: first loss {result['first_loss']:.4f}, reference {means[judge]:.4f}",
                hint="it does not train on the same tokens: look at its labels, order and shift",
            )
        return errors

    def mean_loss(self, dtype: str, workload: workloads.Workload, groups: Sequence[Sequence[int]]) -> float:
        """Nats a supervised token of each group of rows, averaged over the groups."""
        means = []
        for rows in groups:
            supervised = sum(label != workloads.IGNORED for row in rows for label in workload.labels[row])
            means.append(sum(self.reference[dtype, workload.name, row] for row in rows) / supervised)
        return sum(means) / len(means)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; the exit code is 0, or that of the error."""
    return report.deliver(measure, report.markdown, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("Sartor's training against its peers', on this machine.")
    parser.add_argument("--repeats", type=report.positive, default=5)
    parser.add_argument("--steps", type=report.positive, default=6, help="measured optimizer steps of a process")
    parser.add_argument("--warmup", type=report.positive, default=2, help="steps before them")
    parser.add_argument("--model", default=MODEL, help="a catalogue name, or a folder")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--workloads", nargs="+", choices=tuple(workloads.KINDS), default=list(workloads.KINDS))
    parser.add_argument("--contestants", nargs="+", choices=tuple(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--grid", action="store_true", help="look for each peer's best settings first")
    parser.add_argument("--to-loss", action="store_true", help="measure the time to a held-out loss instead of rates")
    parser.add_argument("--target", type=float, help="that loss; left out, one that all contestants reach")
    options = parser.parse_args(arguments)
    if options.target is not None and not options.to_loss:
        parser.error("--target is a loss to be reached: give --to-loss too")
    return options


def measure(options: argparse.Namespace) -> Json:
    """The whole result, as it is written."""
    model = find(ModelSpec(name=options.model)).folder
    bench = Bench(model, Machine(options.threads), options.warmup, options.method)
    used = {name: prepare(name, model, options) for name in options.workloads}
    absent: Json = {}
    chosen = [
        name for name in options.contestants if options.method in CONTESTANTS[name].methods and ready(name, absent)
    ]
    grid = search(bench, used, chosen) if options.grid else []
    found: Json = {"runs": [], "reach": []}
    if options.to_loss:
        found["reach"] = list(reach.curves(bench, used, chosen, options, best_of(grid), absent))
    else:
        found["runs"] = list(turns(bench, used, chosen, options, best_of(grid), absent))
    if not found["runs"] and not found["reach"]:
        raise MachineError("nothing was measured", hint="; ".join(_reasons(absent)) or "name other --contestants")
    return {
        **harness.facts(list(dict.fromkeys(CONTESTANTS[name].environment for name in chosen))),
        "kind": kind(options),
        "model": {"name": options.model, "digest": harness.weights_digest(model)},
        "settings": {
            **{key: vars(options)[key] for key in ("repeats", "steps", "warmup", "threads", "method", "target")},
            "contestants": chosen,
        },
        "workloads": {
            name: workloads.describe(item, shape(model), rank=RANK, method=options.method)
            for name, item in used.items()
        },
        "grid": grid,
        "absent": absent,
        **found,
    }


def _reasons(absent: Json) -> list[str]:
    return [f"{name}: {reason}" for name, places in absent.items() for reason in places.values()]


def kind(options: argparse.Namespace) -> str:
    """What tells this result from others: the method, what is measured, and the workloads where not all are."""
    chosen = [name for name in workloads.KINDS if name in options.workloads]
    parts = [("full", options.method == "full"), ("to-loss", options.to_loss)]
    parts += [(name, len(chosen) < len(workloads.KINDS)) for name in chosen]
    return "-".join(part for part, on in parts if on)


def prepare(name: str, model: Path, options: argparse.Namespace) -> workloads.Workload:
    """A workload cut to the rows that are used, and written where the contestants find it; the next ones to score."""
    whole = workloads.build(name, model=model, calls=CALLS, package=PACKAGE)
    count = (options.steps + options.warmup) * whole.batch_size
    used = whole.rows(0, count)
    used.write(CACHE / "workloads" / f"{name}.json")
    if options.to_loss:
        reach.held_out(whole, count).write(CACHE / "workloads" / f"{name}.held-out.json")
    return used


def ready(name: str, absent: Json) -> bool:
    """Whether a contestant is installed; if not, that is noted."""
    if harness.python_of(CONTESTANTS[name].environment).is_file():
        return True
    absent[name] = {"everywhere": f"not installed: bash bench/setup.sh {CONTESTANTS[name].environment}"}
    return False


def turns(
    bench: Bench,
    used: dict[str, workloads.Workload],
    chosen: Sequence[str],
    options: argparse.Namespace,
    best: dict[tuple[str, str], Json],
    absent: Json,
) -> Iterator[Json]:
    """Every contestant on every workload, in turn, as often as asked."""
    for name, workload in used.items():
        for repeat in range(options.repeats):
            for contestant in chosen:
                if name in absent.get(contestant, {}):
                    continue
                own = best.get((name, contestant)) or CONTESTANTS[contestant].options(workload.batch_size)
                found = attempt(bench, contestant, workload, steps=options.steps, options=own, absent=absent)
                if found:
                    facts = {"workload": name, "contestant": contestant, "repeat": repeat, "options": own}
                    yield facts | found
                    progress(facts | found)


def attempt(
    bench: Bench, contestant: str, workload: workloads.Workload, *, steps: int, options: Json, absent: Json
) -> Json | None:
    """One run and its judgement; None, with the reason noted, when a peer fails.

    Raises:
        SartorError: our own contestant fails.
    """
    try:
        result = bench.run(contestant, workload.name, steps=steps, options=options)
        return result | bench.judge(contestant, workload, result, steps=steps)
    except (MachineError, Refused) as error:
        if contestant == OURS:
            raise
        absent.setdefault(contestant, {})[workload.name] = error.message
        say(f"{workload.name} · {contestant}: left out: {error.message}\n  {error.hint}")
        return None


def search(bench: Bench, used: dict[str, workloads.Workload], chosen: Sequence[str]) -> list[Json]:
    """Every point of each peer's grid on every workload, a few steps each, then variants of the best.

    A point that fails stands there with its reason, `failed`.
    """
    points = []
    for name, workload in used.items():
        for contestant in (CONTESTANTS[each] for each in chosen if CONTESTANTS[each].tier == "tuned"):
            grid = contestant.grid(workload.batch_size, bench.method)
            points += [tried(bench, contestant.name, workload, own) for own in grid]
            best = best_of(points).get((name, contestant.name))
            variants = contestant.variants(best) if best else []
            points += [tried(bench, contestant.name, workload, own) for own in variants]
    return points


def tried(bench: Bench, contestant: str, workload: workloads.Workload, own: Json) -> Json:
    """One point of a grid."""
    steps = min(GRID_STEPS, len(workload.ids) // workload.batch_size - bench.warmup)
    absent: Json = {}
    found = attempt(bench, contestant, workload, steps=steps, options=own, absent=absent)
    facts = {"workload": workload.name, "contestant": contestant, "options": own, "repeat": 0}
    if found is None:
        return facts | {"failed": absent[contestant][workload.name]}
    progress(facts | found)
    return facts | found


def best_of(grid: Sequence[Json]) -> dict[tuple[str, str], Json]:
    """The options of the fastest point of each workload and contestant, as fast as the machine was meanwhile."""
    ranked = sorted((point for point in grid if "failed" not in point), key=report.pace)
    return {(point["workload"], point["contestant"]): point["options"] for point in ranked}


def progress(run: Json) -> None:
    """One line on stderr."""
    words = f"{run['workload']} · {run['contestant']} {run['options']} · repeat {run['repeat'] + 1}"
    say(f"{words}: {report.rate(run):.0f} useful tokens/s, {run['peak_bytes'] / 2**30:.2f} GiB")


if __name__ == "__main__":
    sys.exit(main())
