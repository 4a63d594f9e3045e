"""What `sartor run` takes beside computing, on the demo: `python bench/overhead.py`.

A fresh process runs the demo whole in a folder of its own: check, baseline, plan, training, proof, package. What is not
inside a forward, a backward, an update or a step of the engine is overhead: starting, opening models, the plan's
measurements, checkpoints, statistics, the report.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import report
from figures import cautions, header, line
from harness import CALLS, OURS, Machine
from sartor.errors import UserError

Json = dict[str, Any]

BAR = 0.10  # of the wall time at the most
RECIPE = harness.HERE.parent / "demo" / "sartor.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; the exit code is 0, or that of the error."""
    return report.deliver(measure, markdown, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("The share of `sartor run` on the demo that computes nothing.")
    parser.add_argument(
        "--repeats", type=report.positive, default=1, help="whole runs: each takes as long as `make demo`"
    )
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """The whole result, as it is written.

    Raises:
        UserError: the demo's data are not there.
    """
    if not CALLS.is_file():
        raise UserError(f"no {CALLS.name}", hint="python scripts/demo_data.py demo/calls.jsonl")
    machine = Machine(options.threads)
    return {
        **harness.facts([OURS]),
        "kind": "overhead",
        "settings": {"repeats": options.repeats, "threads": options.threads},
        "runs": [one(machine, repeat) for repeat in range(options.repeats)],
    }


def one(machine: Machine, repeat: int) -> Json:
    """One run of the demo in a new folder."""
    with tempfile.TemporaryDirectory() as name:
        for file in (RECIPE, CALLS):
            shutil.copy(file, name)
        script = harness.HERE / "contestants" / "whole_run.py"
        found = machine.measured(OURS, script, ["--recipe", str(Path(name) / RECIPE.name)])
    return {"repeat": repeat, "seconds": found.pop("wall_seconds"), **found}


def share(run: Json) -> float:
    """What is overhead, of the whole."""
    return 1.0 - sum(run["computing"].values()) / float(run["seconds"])


def markdown(result: Json) -> str:
    """The report of a result of this benchmark."""
    runs = result["runs"]
    lines = header("run", "wall time", *sorted(runs[0]["computing"]), "overhead", "bar")
    for run in runs:
        parts = [f"{seconds:.0f} s" for _, seconds in sorted(run["computing"].items())]
        lines.append(
            line([str(run["repeat"] + 1), f"{run['seconds']:.0f} s", *parts, f"{share(run):.1%}", f"≤ {BAR:.0%}"])
        )
    settings, machine = result["settings"], result["machine"]
    return (
        "\n\n".join(
            [
                f"`sartor run demo/sartor.yaml`, measured {result['date']} on {machine['processor']}, "
                f"{settings['threads']} threads: what is inside each call that computes, and what is left.",
                *cautions(runs, len(runs)),
                "\n".join(lines),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
