"""Every tuning method on the same rows with the same budget: `python bench/methods.py`, then `--cost`.

The first trains each method by `sartor run`, its own defaults and nothing else, and takes from the runs what they
proved on held-out items; it can be stopped, and goes on. `--cost` measures a few steps of each in fresh processes, in
turn with LoRA: ratios of speed and memory, for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import memory
import methods_report
import report
import sections
from harness import CACHE, MODEL, OURS, Machine, say
from sartor import durable
from sartor.adapters import methods
from sartor.errors import MachineError
from sartor.hub import find
from sartor.proof import Proof
from sartor.recipe import ModelSpec, load
from sartor.store import Run, open_run, read_json

Json = dict[str, Any]

#: Three seeds for the methods that are used most, one for the others.
MOST_USED = (
    "full",
    "lora",
    "qlora",
    "rslora",
    "dora",
    "lora_plus",
    "ia3",
    "prompt_tuning",
    "prefix_tuning",
    "bottleneck",
)
SEEDS = (17, 18, 19)
STEPS, BATCH = 40, 4
#: What the cost is measured on: rows of random ids, 4 a step, for a step costs the same whatever the words are.
ROWS = memory.Setting(MODEL, longest=384, shortest=128, batch_size=4)
FOLDER = CACHE / "methods"
RECIPE = f"""\
model: {MODEL}
data: {{train: train.jsonl, dev: dev.jsonl, test: test.jsonl}}
task: {{metric: choice}}
tune: {{steps: {STEPS}, batch_size: {BATCH}}}
prove: {{arms: [zero_shot, tuned], items: {sections.SPLIT["test"] * len(sections.SECTIONS)}}}
"""
#: Methods that do nothing on these rows, and why.
LEFT_OUT = {"new_tokens": "for texts with tokens that the base never saw: these have none"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; the exit code is 0, or that of the error."""
    options = parse(arguments)
    code = report.deliver(cost if options.cost else compare, methods_report.markdown, options)
    if not code and options.results == harness.RESULTS:
        methods_report.publish()
    return code


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("The tuning methods beside each other, on this machine.")
    parser.add_argument("--cost", action="store_true", help="speed and memory beside LoRA's instead of accuracy")
    parser.add_argument("--methods", nargs="+", choices=sorted(methods()), default=sorted(methods()))
    parser.add_argument("--repeats", type=report.positive, default=3, help="with --cost: rounds of all methods")
    parser.add_argument(
        "--steps", type=report.positive, default=4, help="with --cost: measured optimizer steps of a process"
    )
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> Json:
    """What each method reached."""
    report.require_whole(options, whole=set(options.methods) == set(methods()))
    sections.write(FOLDER)
    durable.atomic_write(FOLDER / "sartor.yaml", RECIPE)
    found, absent = [], dict(LEFT_OUT)
    for method, seed in plan_of_runs(options.methods):
        if method in absent:
            continue
        try:
            found.append(trained(method, seed))
        except MachineError as error:
            absent[method] = error.message
            say(f"{method}: left out: {error.message}")
    digests = {part: durable.sha256(FOLDER / f"{part}.jsonl") for part in sections.SPLIT}
    settings = {"seeds": list(SEEDS), "steps": STEPS, "batch_size": BATCH}
    return {**facts("methods", settings), "data": digests, "runs": found, "absent": absent}


def plan_of_runs(chosen: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Method and seed of each run: all methods once before any is repeated."""
    for seed in SEEDS:
        yield from ((method, seed) for method in chosen if seed == SEEDS[0] or method in MOST_USED)


def trained(method: str, seed: int) -> Json:
    """One run of one method, made now unless it is proved already.

    Raises:
        MachineError: it failed.
    """
    sets = [f"tune.adapter={method}", f"tune.seed={seed}"]
    run = open_run(FOLDER / "sartor.yaml", load(FOLDER / "sartor.yaml", sets))
    if not run.path("proof.json").is_file():
        command = [sys.executable, "-m", "sartor.cli", "run", str(FOLDER / "sartor.yaml"), "--anyway", "--json"]
        command += [part for item in sets for part in ("--set", item)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not run.path("proof.json").is_file():
            raise MachineError(harness.reason(done.stderr), hint=f"sartor run {FOLDER}/sartor.yaml --set {sets[0]}")
    result = {"method": method, "seed": seed, **facts_of(run)}
    say(f"{method} (seed {seed}): {result['tuned']:.1%} for {result['untuned']:.1%}")
    return result


def facts_of(run: Run) -> Json:
    """What a finished run says of its method."""
    proof, plan = Proof.model_validate(read_json(run.path("proof.json"))), read_json(run.path("plan.json"))
    arms = {arm.name: arm for arm in proof.arms}
    stepped = [event for event in run.events() if event["type"] == "stepped"]
    weights = list(run.result.glob("*.safetensors"))
    return {
        "tuned": arms["tuned"].score,
        "low": arms["tuned"].low,
        "high": arms["tuned"].high,
        "untuned": arms["zero_shot"].score,
        "p": proof.comparisons[0].p,
        "forgetting": proof.forgetting.change if proof.forgetting else 0.0,
        "trainable": plan["num_trainable"],
        "peak_bytes": max(event["peak_bytes"] for event in stepped),
        "disk_bytes": sum(file.stat().st_size for file in weights),
    }


def cost(options: argparse.Namespace) -> Json:
    """Steps of every method, in turn, each in a fresh process."""
    report.require_whole(options, whole=set(options.methods) == set(methods()))
    machine = Machine(options.threads)
    file = CACHE / "workloads" / "methods.json"
    memory.rows(ROWS, (options.steps + 1) * ROWS.batch_size).write(file)
    found: list[Json] = []
    absent = dict(LEFT_OUT)
    for repeat in range(options.repeats):
        for method in options.methods:
            if method in absent:
                continue
            try:
                result = steps_of(method, machine, file, options.steps)
            except MachineError as error:
                absent[method] = error.message
                say(f"{method}: left out: {error.message}")
                continue
            found.append({"repeat": repeat, **result})
    return {**facts("methods-cost", asked(options)), "costs": found, "absent": absent}


def steps_of(method: str, machine: Machine, file: Path, steps: int) -> Json:
    """The seconds of each step of a method, as its defaults have it, and the memory of the process.

    Raises:
        MachineError: it failed.
    """
    asked = {"tune": {"adapter": method}, "any_path": True}
    arguments = ["--workload", str(file), "--model", str(find(ModelSpec(name=MODEL)).folder)]
    arguments += ["--steps", str(steps), "--warmup", "1", "--options", json.dumps(asked)]
    result = machine.measured(OURS, harness.HERE / "contestants" / "sartor_step.py", arguments)
    say(f"{method}: {statistics.median(result['seconds_per_step']):.2f} s a step")
    kept = {key: result[key] for key in ("useful_tokens", "seconds_per_step", "peak_bytes", *harness.STATE)}
    return {"method": method, **kept}


def asked(options: argparse.Namespace) -> Json:
    """The settings of a measurement of speed."""
    return {key: vars(options)[key] for key in ("repeats", "steps", "threads")}


def facts(kind: str, settings: Json) -> Json:
    """The head of a result."""
    return {**harness.facts([OURS]), "kind": kind, "model": MODEL, "settings": settings}


if __name__ == "__main__":
    sys.exit(main())
