"""Predicted and measured: `python bench/memory.py`. Every configuration is planned first; its digest and its estimate
are on disk before the run begins. Then a fresh process trains as planned, evaluates, saves and loads.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import harness
import report
from figures import cautions, header, line
from harness import CACHE, MODEL, OURS, Machine, say
from sartor import durable
from sartor.errors import MachineError
from sartor.hub import find
from sartor.recipe import ModelSpec
from workload import IGNORED, Workload

Json = dict[str, Any]

SEED = 9
WITHIN = 0.10  # of the prediction: the bar for memory, and for the median of times
GIB = 2**30
USUAL = 0.5  # share of the tokens that is supervised


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration: a model, a method, and rows of random ids with lengths up to `longest`."""

    model: str
    longest: int
    shortest: int = 0  # 0: a quarter of the longest
    supervised: float = USUAL
    batch_size: int = 8
    method: str = "lora"
    tune: Json = field(default_factory=dict)
    hardware: Json = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What differs from one to the next."""
        adapter = self.tune.get("adapter", {})
        rank = f" r={adapter['r']}" if adapter else ""
        targets = [*adapter.get("targets", ())]
        extra = [f"{key} {value}" for key, value in self.hardware.items()]
        if targets not in ([], ["all-linear"]):
            extra.append(f"on {', '.join(targets)}")
        if self.supervised != USUAL:
            extra.append(f"{self.supervised:.0%} supervised")
        lengths = f"{self.shortest or self.longest // 4}–{self.longest} tokens"
        return ", ".join([self.model, f"{self.method}{rank}", f"{self.batch_size} × {lengths}", *extra])


def lora(rank: int, targets: Sequence[str] = ("all-linear",)) -> Json:
    """A recipe's `tune` with this adapter."""
    return {"adapter": {"name": "lora", "r": rank, "alpha": 2 * rank, "targets": list(targets)}}


FP32: Json = {"has_bf16": False}
#: Random models beside the real one: (layers, hidden, inner, heads, key heads, vocabulary).
SHAPES: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (4, 256, 768, 4, 2, 49152),
    "deep": (24, 384, 1024, 6, 2, 49152),
    "wide": (8, 1024, 4096, 16, 4, 49152),
}
SETTINGS: tuple[Setting, ...] = (
    *(Setting(MODEL, longest) for longest in (128, 256, 512, 1024, 2048, 4096)),
    *(Setting(MODEL, 512, tune=lora(rank)) for rank in (4, 64, 128)),
    Setting(MODEL, 512, tune=lora(16, ("q_proj", "v_proj"))),
    Setting(MODEL, 512, supervised=1.0),
    Setting(MODEL, 512, supervised=0.05),
    Setting(MODEL, 512, batch_size=2),
    Setting(MODEL, 512, batch_size=32),
    Setting(MODEL, 512, hardware=FP32),
    Setting(MODEL, 1024, hardware={"memory_bytes": int(1.7 * GIB)}),
    Setting(MODEL, 256, method="full"),
    Setting(MODEL, 1024, method="full"),
    Setting(MODEL, 512, method="full", hardware=FP32),
    *(Setting(name, 512) for name in SHAPES),
    Setting("wide", 2048, tune=lora(64)),
    Setting("deep", 1024, method="full"),
    Setting("tiny", 512, hardware=FP32),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; the exit code is 0, or that of the error."""
    return report.deliver(measure, markdown, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("What the planner predicts, and what a fresh process then needs.")
    parser.add_argument("--steps", type=report.positive, default=6, help="measured optimizer steps of a run")
    parser.add_argument("--warmup", type=report.positive, default=2)
    numbers = range(len(SETTINGS))
    parser.add_argument("--only", type=int, nargs="+", choices=numbers, metavar="N", help="settings, from 0")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """The whole result, as it is written."""
    report.require_whole(options, whole=options.only is None)
    machine = Machine(options.threads)
    numbers = options.only or range(len(SETTINGS))
    runs = [compare(machine, SETTINGS[number], options) for number in numbers]
    return {
        **harness.facts([OURS]),
        "kind": "memory",
        "settings": {
            **{key: vars(options)[key] for key in ("steps", "warmup", "threads")},
            "configurations": len(SETTINGS),
        },
        "runs": runs,
    }


def compare(machine: Machine, setting: Setting, options: argparse.Namespace) -> Json:
    """Plan, note, run. A plan that is refused is noted as such; a run that fails as well."""
    file = CACHE / "workloads" / "memory.json"
    rows(setting, (options.steps + options.warmup) * setting.batch_size).write(file)
    folder = model_folder(setting.model)
    with tempfile.TemporaryDirectory() as name:
        own = {"method": setting.method, "tune": setting.tune, "hardware": setting.hardware, "rehearse": True}
        own["plan"] = str(Path(name) / "plan.json")
        arguments = ["--workload", str(file), "--model", str(folder), "--options", json.dumps(own)]
        arguments += ["--steps", str(options.steps), "--warmup", str(options.warmup)]
        facts: Json = {"setting": asdict(setting), "words": setting.words}
        try:
            facts["predicted"] = machine.process(OURS, harness.HERE / "contestants" / "foretell.py", arguments)
            durable.append(CACHE / "foretold.jsonl", json.dumps(facts))  # on disk before the run begins
            found = machine.measured(OURS, harness.HERE / "contestants" / "sartor_step.py", arguments)
        except MachineError as error:
            say(f"{setting.words}: {error.message}\n  {error.hint}")
            return {**facts, "failed": error.message}
    seconds = float(np.median(found["seconds_per_step"])) * (options.steps + options.warmup)
    measured = {"peak_bytes": found["peak_bytes"], "seconds": seconds}
    foretold = facts["predicted"]["peak_bytes"]
    say(f"{setting.words}: {foretold / GIB:.2f} GiB foretold, {found['peak_bytes'] / GIB:.2f} found")
    return {**facts, "measured": measured, **{key: found[key] for key in harness.STATE}}


def rows(setting: Setting, count: int) -> Workload:
    """Rows of random ids with a published seed; lengths uniform between the shortest and the longest."""
    chooser = random.Random(SEED)
    lengths = [chooser.randint(setting.shortest or setting.longest // 4, setting.longest) for _ in range(count)]
    lengths[0] = setting.longest
    ids = tuple(tuple(chooser.randrange(100, 40_000) for _ in range(length)) for length in lengths)
    labels = tuple(
        (IGNORED,) * (len(row) - trained(row, setting)) + row[len(row) - trained(row, setting) :] for row in ids
    )
    return Workload("memory", "random ids", setting.batch_size, ids, labels)


def trained(row: Sequence[int], setting: Setting) -> int:
    """How many tokens at the end of a row are trained."""
    return max(1, round((len(row) - 1) * setting.supervised))


def model_folder(name: str) -> Path:
    """The real model, or a random one of a shape above, made once."""
    if name not in SHAPES:
        return find(ModelSpec(name=name)).folder
    folder = CACHE / "models" / name
    if not (folder / "model.safetensors").is_file():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(SEED)
        layers, hidden, inner, heads, key_heads, vocab = SHAPES[name]
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


def markdown(result: Json) -> str:
    """The report of a result of this benchmark."""
    done = [run for run in result["runs"] if "measured" in run]
    parts = [
        f"Measured {result['date']} on {result['machine']['processor']}; the plan's digest was taken before the run."
    ]
    parts.append(_count(result))
    if done:
        parts += cautions(done, repeats=1)
        errors = {key: np.abs([_error(run, key) for run in done]) for key in ("peak_bytes", "seconds")}
        parts.append(
            f"Peak memory: {int((errors['peak_bytes'] <= WITHIN).sum())} of {len(done)} within {WITHIN:.0%}, the worst "
            f"{errors['peak_bytes'].max():.0%} off. Time: {np.median(errors['seconds']):.0%} off in the median."
        )
    lines = header("", "plan", "foretold", "found", "off", "time off")
    for run in result["runs"]:
        if "measured" not in run:
            lines.append(line([run["words"], "–", "–", "–", run["failed"], "–"]))
            continue
        foretold, found = run["predicted"]["peak_bytes"] / GIB, run["measured"]["peak_bytes"] / GIB
        errors_of = [f"{_error(run, key):+.0%}" for key in ("peak_bytes", "seconds")]
        words = f"{run['words']}, {run['predicted']['micro_tokens']:,} tokens a forward, {run['predicted']['dtype']}"
        lines.append(
            line([words, run["predicted"]["digest"][:12], f"{foretold:.2f} GiB", f"{found:.2f} GiB", *errors_of])
        )
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _count(result: Json) -> str:
    """How many configurations ran, and how different they are."""
    runs, known = result["runs"], result["settings"].get("configurations")
    done = [run for run in runs if "measured" in run]
    plans = {run["predicted"]["digest"] for run in done}
    of = f" of the {known} in `memory.py`" if known else ""
    return (
        f"{len(runs)} configurations{of}: {len(done)} ran, once each; {len(runs) - len(done)} failed or were refused. "
        f"Different plans among those that ran: {len(plans)}."
    )


def _error(run: Json, key: str) -> float:
    """Predicted by measured, as a share: positive when too much was foretold."""
    return float(run["predicted"][key] / run["measured"][key] - 1.0)


if __name__ == "__main__":
    sys.exit(main())
