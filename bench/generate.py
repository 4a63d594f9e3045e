"""The generation benchmark: `python bench/generate.py --repeats 5`. 64 prompts, 64 new tokens each, greedy.

Four scenes: `mixed`: W1's prompts; `shared`: W4's, which begin with one long few-shot prompt; `one` and `four`: the
mixed prompts with one LoRA adapter, and with four of them in turn. Contestants take turns in fresh processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import harness
import report
import workload as workloads
from figures import cautions, header, line, plateau, ratio_words, spread
from harness import CACHE, CALLS, MODEL, OURS, PACKAGE, Machine, say
from sartor import durable
from sartor.errors import DataError, MachineError
from sartor.hub import find
from sartor.recipe import ModelSpec

Json = dict[str, Any]

SEED = 64
BATCHES = (8, 16, 32, 64)
LABELS = {OURS: "Sartor's engine", "transformers": "transformers' `generate`", "vllm": "vLLM's CPU build"}
SCRIPTS = {OURS: "sartor_engine.py", "transformers": "transformers_generate.py", "vllm": "vllm_engine.py"}
ENVIRONMENTS = {OURS: OURS, "transformers": OURS, "vllm": "vllm"}
SCENES = {
    "mixed": ("w1", 0, "64 mixed prompts"),
    "shared": ("w4", 0, "64 prompts that begin with the same few-shot prompt"),
    "one": ("w1", 1, "the mixed prompts, one LoRA adapter"),
    "four": ("w1", 4, "the mixed prompts, four LoRA adapters in turn"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; the exit code is 0, or that of the error."""
    return report.deliver(measure, markdown, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("Sartor's generation against its peers', on this machine.")
    parser.add_argument("--repeats", type=report.positive, default=5)
    parser.add_argument("--prompts", type=report.positive, default=64)
    parser.add_argument("--new-tokens", type=report.positive, default=64)
    parser.add_argument("--scenes", nargs="+", choices=tuple(SCENES), default=list(SCENES))
    parser.add_argument(
        "--batches", nargs="+", type=report.positive, default=list(BATCHES), help="what transformers tries"
    )
    parser.add_argument("--vllm", action="store_true", help="measure vLLM too: bash bench/setup.sh vllm")
    parser.add_argument("--model", default=MODEL, help="a catalogue name, or a folder")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """The whole result, as it is written."""
    model = find(ModelSpec(name=options.model)).folder
    machine = Machine(options.threads)
    adapters = make_adapters(model) if {"one", "four"} & set(options.scenes) else {}
    jobs = {scene: job(scene, model, adapters, options) for scene in options.scenes}
    contestants = [OURS, "transformers", *(["vllm"] if options.vllm else [])]
    absent: Json = {} if options.vllm else {"vllm": dict.fromkeys(options.scenes, "not asked for: --vllm")}
    grid = list(search(machine, model, options))
    best = best_of(grid)
    return {
        **harness.facts([ENVIRONMENTS[name] for name in contestants if name != "transformers"]),
        "kind": kind(options),
        "model": {"name": options.model, "digest": harness.weights_digest(model)},
        "settings": {
            **{key: vars(options)[key] for key in ("repeats", "threads", "prompts", "new_tokens")},
            "dtype": harness.dtype(),
            "contestants": contestants,
        },
        "scenes": jobs,
        "grid": grid,
        "runs": list(turns(machine, model, contestants, best, options, absent)),
        "absent": absent,
    }


def kind(options: argparse.Namespace) -> str:
    """What tells this result from others: its scenes, where not all are."""
    chosen = [name for name in SCENES if name in options.scenes]
    return "-".join(["generate", *(chosen if len(chosen) < len(SCENES) else ())])


def prompts_of(workload: workloads.Workload, count: int) -> list[list[int]]:
    """What is asked in some of its rows, chosen with a seed: the tokens before the first trained one.

    Raises:
        DataError: it has fewer.
    """
    if count > len(workload.ids):
        raise DataError(f"{workload.name} has {len(workload.ids)} rows, not {count}", hint="ask for fewer --prompts")
    rows = random.Random(SEED).sample(range(len(workload.ids)), count)
    untrained = workloads.IGNORED
    return [
        [token for token, _ in itertools.takewhile(lambda pair: pair[1] == untrained, zip(*pair, strict=True))]
        for pair in ((workload.ids[row], workload.labels[row]) for row in rows)
    ]


def job(scene: str, model: Path, adapters: dict[str, str], options: argparse.Namespace) -> Json:
    """Write what the contestants of a scene read; the facts of it that a reader wants."""
    name, num_adapters, title = SCENES[scene]
    prompts = prompts_of(workloads.build(name, model=model, calls=CALLS, package=PACKAGE), options.prompts)
    used = list(adapters)[:num_adapters]
    chosen = [used[row % len(used)] if used else None for row in range(len(prompts))]
    facts = {"prompts": prompts, "adapters": chosen, "folders": {key: adapters[key] for key in used}}
    durable.write_json(job_file(scene), {**facts, "new_tokens": options.new_tokens, "dtype": harness.dtype()})
    lengths = sorted(map(len, prompts))
    return {"title": title, "prompt_tokens": sum(lengths), "shortest": lengths[0], "longest": lengths[-1]}


def job_file(scene: str) -> Path:
    return CACHE / "workloads" / f"generate.{scene}.json"


def make_adapters(model: Path) -> dict[str, str]:
    """Four adapters in the cache, made once for each model.

    Raises:
        MachineError: that failed.
    """
    folder = CACHE / "adapters" / model.name
    found = {f"adapter-{number}": str(folder / f"adapter-{number}") for number in range(4)}
    if not all(Path(path, "adapter_model.safetensors").is_file() for path in found.values()):
        script = harness.HERE / "generators" / "make_adapters.py"
        command = [sys.executable, str(script), str(model), str(folder), "4"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MachineError(f"{script.name} failed: {harness.reason(done.stderr)}", hint=" ".join(command))
    return found


def one(machine: Machine, model: Path, name: str, scene: str, options: Json) -> Json:
    """One contestant in a fresh process."""
    script = harness.HERE / "generators" / SCRIPTS[name]
    arguments = ["--job", str(job_file(scene)), "--model", str(model), "--options", json.dumps(options)]
    found = machine.measured(ENVIRONMENTS[name], script, arguments)
    say(f"{scene} · {name} {options or ''}: {rate(found):.0f} tokens/s, ready after {found['start_seconds']:.1f} s")
    return {"scene": scene, "contestant": name, "options": options, **found}


def takes_part(name: str, scene: str) -> bool:
    """Adapters are compared with themselves: four against one."""
    return name == OURS or not SCENES[scene][1]


def search(machine: Machine, model: Path, options: argparse.Namespace) -> Iterator[Json]:
    """transformers at each batch size, once. A size that fails is left out."""
    for scene, batch in itertools.product(options.scenes, options.batches):
        if takes_part("transformers", scene):
            try:
                yield one(machine, model, "transformers", scene, {"batch": batch})
            except MachineError as error:
                say(f"{scene} · transformers, batch {batch}: left out: {error.message}\n  {error.hint}")


def best_of(grid: Sequence[Json]) -> dict[str, Json]:
    """The options of the fastest point of each scene, as fast as the machine was meanwhile."""
    ranked = sorted(grid, key=lambda run: rate(run) / plateau(run))
    return {run["scene"]: run["options"] for run in ranked}


def own_options(name: str, scene: str, best: dict[str, Json]) -> Json:
    """What a contestant is run with: transformers has its best batch.

    Raises:
        MachineError: no batch ran.
    """
    if name != "transformers":
        return {}
    if scene not in best:
        raise MachineError(f"no batch size ran on {scene}", hint="--batches tries others")
    return best[scene]


def turns(
    machine: Machine,
    model: Path,
    contestants: Sequence[str],
    best: dict[str, Json],
    options: argparse.Namespace,
    absent: Json,
) -> Iterator[Json]:
    """Every contestant in every scene, in turn; one that fails in a scene is left out of it, unless it is ours."""
    for repeat in range(options.repeats):
        for scene in options.scenes:
            for name in contestants:
                if scene in absent.get(name, {}) or not takes_part(name, scene):
                    continue
                try:
                    found = one(machine, model, name, scene, own_options(name, scene, best))
                except MachineError as error:
                    if name == OURS:
                        raise
                    absent.setdefault(name, {})[scene] = error.message
                    continue
                yield {**found, "repeat": repeat}


def rate(run: Json) -> float:
    """New tokens a second, end to end over all prompts, in steady state."""
    return float(run["new_tokens"] / run["seconds"])


def markdown(result: Json) -> str:
    """The report of a result of this benchmark."""
    machine, settings, runs = result["machine"], result["settings"], result["runs"]
    parts = [
        f"{result['model']['name']} in {settings['dtype']}, {settings['prompts']} prompts, {settings['new_tokens']} "
        f"new tokens each, greedy; measured {result['date']} on {machine['processor']}, {settings['threads']} threads "
        f"of {machine['num_cores']} cores; {settings['repeats']} repeats, in turn, each in a fresh process.",
        *cautions(runs, settings["repeats"]),
    ]
    for scene, facts in result["scenes"].items():
        parts.append(
            f"### {facts['title']}\n\n{facts['prompt_tokens']:,} prompt tokens, from {facts['shortest']} to "
            f"{facts['longest']} each."
        )
        parts.append(_table(result, scene))
    adapters = [[rate(run) for run in _of(runs, scene, OURS)] for scene in ("four", "one")]
    if all(adapters):
        parts.append(f"Four adapters mixed, times one: **{ratio_words(*adapters)}**.")
    parts += [
        f"Not measured: {LABELS[name]}, {SCENES[scene][2]}: {reason}"
        for name, reasons in result["absent"].items()
        for scene, reason in reasons.items()
    ]
    return "\n\n".join(parts) + "\n"


def _table(result: Json, scene: str) -> str:
    lines = header(
        "", "new tokens/s", "ready after", "peak memory", "same answers as Sartor's", "Sartor's rate, times this"
    )
    ours = _of(result["runs"], scene, OURS)
    for name in result["settings"]["contestants"]:
        runs = _of(result["runs"], scene, name)
        if not runs:
            continue
        rates = [rate(run) for run in runs]
        same = [a == b for a, b in zip(ours[0]["digests"], runs[0]["digests"], strict=True)]
        batch = "".join(f", {key} {value}" for key, value in runs[0]["options"].items())
        if name == "transformers":
            batch += f", the best of {', '.join(str(size) for size in _tried(result, scene))}"
        lines.append(
            line(
                [
                    LABELS[name] + batch,
                    spread(rates, ".0f"),
                    f"{np.median([run['start_seconds'] for run in runs]):.1f} s",
                    f"{np.median([run['peak_bytes'] for run in runs]) / 2**30:.2f} GiB",
                    f"{sum(same)} of {len(same)}",
                    "–" if name == OURS else ratio_words([rate(run) for run in ours], rates),
                ]
            )
        )
    return "\n".join(lines)


def _tried(result: Json, scene: str) -> list[int]:
    """The batches that transformers was tried with."""
    return sorted(run["options"]["batch"] for run in _of(result["grid"], scene, "transformers"))


def _of(runs: Sequence[Json], scene: str, name: str) -> list[Json]:
    return [run for run in runs if run["scene"] == scene and run["contestant"] == name]


if __name__ == "__main__":
    sys.exit(main())
