"""The one command: `python bench/spine.py --repeats 5`. Builds the workloads, runs the contestants in turn, reports.

Every contestant is a fresh process in its own environment; between two of them the machine's matrix products are
measured. A contestant that trained other tokens, or whose first loss is not the reference's, stops the benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import report
import workload as workloads
from contestants.common import BATCH_SIZE, RANK
from sartor import durable
from sartor.errors import MachineError, Refused, SartorError, UserError
from sartor.hardware import look
from sartor.hub import find, shape
from sartor.recipe import ModelSpec

Json = dict[str, Any]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "bench"
MODEL = "smollm2-135m-instruct"
SCRIPTS = {"sartor": "sartor_step.py", "trl_default": "trl_default.py", "trl_tuned": "trl_tuned.py"}
TUNED: Json = {"layout": "grouped", "micro_batch": 4}
GRID: tuple[Json, ...] = tuple(
    {"layout": layout, "micro_batch": size}
    for layout, sizes in {"grouped": (2, 4, 8), "rebalance": (2, 4), "flat": (2, 4, 8)}.items()
    for size in sizes
)
GRID_STEPS = 4
MAX_LOSS_ERROR = 0.01  # against bf16; plain bf16 itself is up to 0.008 from fp32 where a step has few supervised tokens
DTYPES = ("bfloat16", "float32")
PACKAGES = ("torch", "transformers", "peft", "trl")


@dataclass
class Bench:
    """One run of the benchmark: what was asked, and the environment that all processes get."""

    model: Path
    threads: int
    warmup: int
    environment: dict[str, str]
    reference: dict[tuple[str, str, int], float] = field(default_factory=dict)

    def run(self, script: str, workload: str, *, steps: int, options: Json | None = None) -> Json:
        """One contestant in a fresh process: its result, and what the machine did meanwhile."""
        arguments = ["--workload", str(CACHE / "workloads" / f"{workload}.json"), "--model", str(self.model)]
        arguments += ["--steps", str(steps), "--warmup", str(self.warmup), "--options", json.dumps(options or {})]
        before, own_before = machine_ticks(), own_seconds()
        result = self.process(HERE / "contestants" / script, arguments)
        ticks = machine_ticks() - before
        own = (own_seconds() - own_before) * os.sysconf("SC_CLK_TCK")
        return {**result, "steal": ticks.steal / ticks.total, "foreign": max(0.0, ticks.busy - own) / ticks.total}

    def plateau(self) -> float:
        """FLOP/s of the machine's best matrix product now."""
        return float(self.process(HERE / "gemm.py", [])["flops"])

    def process(self, script: Path, arguments: Sequence[str]) -> Json:
        """Run a script in its environment; its last line on stdout is its result.

        Raises:
            MachineError: it failed; the end of what it said is in the message.
        """
        python = str(CACHE / "trl" / "bin" / "python") if script.stem.startswith("trl") else sys.executable
        done = subprocess.run(
            [python, str(script), "--threads", str(self.threads), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise MachineError(f"{script.name} failed: {done.stderr[-2000:]}", hint=f"run it alone: {python} {script}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    def judge(self, name: str, workload: workloads.Workload, result: Json, *, steps: int) -> Json:
        """Whether a contestant did the same work: how far its first loss is from the reference's, as shares.

        Raises:
            Refused: it trained on another number of tokens, or its first loss is not that of the same rows.
        """
        if result["trained_tokens"] != result["supervised_tokens"]:
            trained, wanted = result["trained_tokens"], result["supervised_tokens"]
            raise Refused(
                f"{name} on {workload.name}: trained {trained} tokens, not {wanted}",
                hint="its labels are not ours: look at masking, truncation and the shift",
            )
        rows = result["first_rows"]
        missing = [row for row in rows if ("bfloat16", workload.name, row) not in self.reference]
        if missing:
            found = self.run("reference.py", workload.name, steps=steps, options={"rows": missing})
            for dtype in DTYPES:
                self.reference |= {(dtype, workload.name, int(row)): value for row, value in found[dtype].items()}
        supervised = sum(label != workloads.IGNORED for row in rows for label in workload.labels[row])
        means = {dtype: sum(self.reference[dtype, workload.name, row] for row in rows) / supervised for dtype in DTYPES}
        errors = {f"first_loss_error_{dtype}": abs(result["first_loss"] / means[dtype] - 1.0) for dtype in DTYPES}
        if not errors["first_loss_error_bfloat16"] <= MAX_LOSS_ERROR:  # so that NaN is refused too
            raise Refused(
                f"{name} on {workload.name}: first loss {result['first_loss']:.4f}, reference {means['bfloat16']:.4f}",
                hint="it does not train on the same tokens: look at its labels, order and shift",
            )
        return errors


@dataclass(frozen=True, slots=True)
class Ticks:
    """Clock ticks of all processors together."""

    total: float
    busy: float
    steal: float

    def __sub__(self, other: Ticks) -> Ticks:
        return Ticks(self.total - other.total, self.busy - other.busy, self.steal - other.steal)


def machine_ticks() -> Ticks:
    """The kernel's counters since boot: user, nice, system, idle, iowait, irq, softirq, steal."""
    values = [float(value) for value in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:9]]
    return Ticks(total=sum(values), busy=sum(values) - values[3] - values[4] - values[7], steal=values[7])


def own_seconds() -> float:
    """Processor time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; the exit code is 0, or that of the error."""
    options = parse(arguments)
    try:
        result = measure(options)
        path = options.results / f"{result['date']}-{slug(result['machine']['processor'])}.json"
        durable.write_json(path, result)
        durable.atomic_write(path.with_suffix(".md"), report.markdown(result))
    except SartorError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(report.markdown(result))
    print(f"written: {path} and its .md", file=sys.stderr)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sartor's training step against TRL's, on this machine.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="measured optimizer steps of a process")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workloads", nargs="+", choices=("calls", "code"), default=["calls", "code"])
    parser.add_argument("--contestants", nargs="+", choices=tuple(SCRIPTS), default=list(SCRIPTS))
    parser.add_argument("--grid", action="store_true", help="look for TRL's best settings first")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """The whole result, as it is written."""
    if not (CACHE / "trl" / "bin" / "python").is_file():
        raise UserError("the peers' environment is not there", hint="bash bench/setup.sh")
    if min(options.repeats, options.steps, options.threads) < 1 or options.warmup < 1:
        raise UserError("repeats, steps, warmup and threads start at 1", hint="leave them out for the defaults")
    model = find(ModelSpec(name=MODEL)).folder
    bench = Bench(model, options.threads, options.warmup, environment(options.threads))
    used = {name: prepare(name, model, options) for name in options.workloads}
    grid = search(bench, used) if options.grid else []
    tuned = best_of(grid) if grid else dict.fromkeys(used, TUNED)
    return {
        "schema": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {**look(HERE).model_dump(), "processor": processor()},
        "versions": {"sartor": versions(sys.executable), "TRL": versions(str(CACHE / "trl" / "bin" / "python"))},
        "model": {"name": MODEL, "digest": weights_digest(model)},
        "settings": {
            **{key: vars(options)[key] for key in ("repeats", "steps", "warmup", "threads", "contestants")},
            "tuned": tuned,
        },
        "workloads": {name: workloads.describe(item, shape(model), rank=RANK) for name, item in used.items()},
        "grid": grid,
        "runs": interleave(bench, used, tuned, options),
    }


def prepare(name: str, model: Path, options: argparse.Namespace) -> workloads.Workload:
    """Build a workload, write it for the contestants, and give back the rows that they will see."""
    whole = workloads.build(
        name,
        model=model,
        calls=HERE.parent / "demo" / "calls.jsonl",
        package=CACHE / "sources" / "networkx",
    )
    used = whole.first((options.steps + options.warmup) * BATCH_SIZE)
    path = CACHE / "workloads" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.write(path)
    return used


def interleave(
    bench: Bench, used: dict[str, workloads.Workload], tuned: dict[str, Json], options: argparse.Namespace
) -> list[Json]:
    """A B C A B C …, with the plateau before and after each."""
    runs = []
    for name, workload in used.items():
        plateau = bench.plateau()
        for repeat in range(options.repeats):
            for contestant in options.contestants:
                own = tuned[name] if contestant == "trl_tuned" else {}
                result = bench.run(SCRIPTS[contestant], name, steps=options.steps, options=own)
                before, plateau = plateau, bench.plateau()
                errors = bench.judge(contestant, workload, result, steps=options.steps)
                facts = {"workload": name, "contestant": contestant, "repeat": repeat, "options": own}
                runs.append(facts | result | errors | {"plateau_before": before, "plateau_after": plateau})
                say(runs[-1])
    return runs


def search(bench: Bench, used: dict[str, workloads.Workload]) -> list[Json]:
    """Every point of the grid on every workload, a few steps each."""
    points = []
    for name, workload in used.items():
        for own in GRID:
            steps = min(GRID_STEPS, len(workload.ids) // BATCH_SIZE - bench.warmup)
            result = bench.run(SCRIPTS["trl_tuned"], name, steps=steps, options=own)
            errors = bench.judge(f"trl_tuned {own}", workload, result, steps=steps)
            facts = {"workload": name, "contestant": "trl_tuned", "options": own, "repeat": 0}
            points.append(facts | result | errors)
            say(points[-1])
    return points


def best_of(grid: Sequence[Json]) -> dict[str, Json]:
    """The options of the fastest point of each workload."""
    best: dict[str, Json] = {}
    for point in sorted(grid, key=report.rate):
        best[point["workload"]] = point["options"]
    return best


def say(run: Json) -> None:
    """One line of progress, on stderr."""
    words = f"{run['workload']} · {run['contestant']} {run['options'] or ''} · repeat {run['repeat'] + 1}"
    print(f"{words}: {report.rate(run):.0f} useful tokens/s, {run['peak_bytes'] / 2**30:.2f} GiB", file=sys.stderr)


def environment(threads: int) -> dict[str, str]:
    """The same for everyone: threads, and no network."""
    fixed = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **fixed}


def versions(python: str) -> dict[str, str]:
    """Versions of the packages that matter, as installed in an environment; those not there are left out."""
    code = (
        "import json, sys; from importlib import metadata; "
        "have = {item.name: item.version for item in metadata.distributions()}; "
        "print(json.dumps({name: have[name] for name in sys.argv[1:] if name in have}))"
    )
    done = subprocess.run([python, "-c", code, "sartor", *PACKAGES], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def weights_digest(model: Path) -> dict[str, str]:
    """SHA-256 of the checkpoint's weight files."""
    return {path.name: durable.sha256(path) for path in sorted(model.glob("*.safetensors"))}


def processor() -> str:
    """The processor with family and model: `AMD EPYC` alone does not tell one generation from the next."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = {key: facts[key] for key in ("cpu family", "model") if key in facts}
    return look(HERE).processor + "".join(f", {key.split()[-1]} {value}" for key, value in known.items())


def slug(processor: str) -> str:
    """A processor's name as a part of a file name."""
    return "-".join("".join(char if char.isalnum() else " " for char in processor.lower()).split())


if __name__ == "__main__":
    sys.exit(main())
