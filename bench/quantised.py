"""What four bits cost: LoRA on a base of four bits beside LoRA on the whole one, in turn: `python bench/quantised.py`.

A step is one row of 2,048 tokens, which is one micro-batch: each weight is made out of its bits once for a forward and
once for a backward of so many tokens. Memory is that of the whole process; the base's own is what its layers hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import memory
import methods
import report
from figures import cautions, header, line, ratio_words
from harness import CACHE, MODEL, Machine
from methods_report import rate_of
from sartor.hub import find
from sartor.recipe import ModelSpec

Json = dict[str, Any]

ROWS = memory.Setting(MODEL, longest=2048, shortest=2048, batch_size=1)
METHODS = ("lora", "qlora")
#: The bars: of LoRA's speed at the least, and of the bytes that the weights have in bf16 at the most.
SPEED, HELD = 0.85, 0.35


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; the exit code is 0, or that of the error."""
    return report.deliver(measure, markdown, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("QLoRA beside LoRA, on this machine.")
    parser.add_argument("--repeats", type=report.positive, default=5)
    parser.add_argument("--steps", type=report.positive, default=3, help="measured optimizer steps of a process")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """Both methods in turn, each time in a fresh process."""
    machine, file = Machine(options.threads), CACHE / "workloads" / "quantised.json"
    memory.rows(ROWS, (options.steps + 1) * ROWS.batch_size).write(file)
    runs = []
    for repeat in range(options.repeats):
        runs += [{"repeat": repeat, **methods.steps_of(method, machine, file, options.steps)} for method in METHODS]
    return {**methods.facts("quantised", methods.asked(options)), "base": held(), "runs": runs}


def held() -> Json:
    """Bytes of the base in four bits, with the buffer in which its layers are made, and in bf16."""
    import torch

    from sartor.base import load_base

    folder = find(ModelSpec(name=MODEL)).folder
    whole, packed = (
        load_base(folder, torch.bfloat16, quantise, attention="eager", packed=quantise != "none")
        for quantise in ("none", "nf4")
    )
    with torch.no_grad():
        packed(torch.tensor([[1, 2, 3]]))
    sizes = {name: sum(part.nbytes for part in _parts(model)) for name, model in (("whole", whole), ("packed", packed))}
    return {**sizes, "buffer": packed.get_output_embeddings().room.num_bytes}


def _parts(model: Any) -> list[Any]:
    return [*model.parameters(), *model.buffers()]


def markdown(result: Json) -> str:
    """The whole report."""
    machine, base, settings = result["machine"], result["base"], result["settings"]
    runs = {method: [run for run in result["runs"] if run["method"] == method] for method in METHODS}
    rates = {method: [rate_of(run) for run in found] for method, found in runs.items()}
    peaks = {method: max(run["peak_bytes"] for run in found) / 2**30 for method, found in runs.items()}
    share = (base["packed"] + base["buffer"]) / base["whole"]
    rows = header("", "", "bar")
    rows.append(line(["speed beside LoRA", ratio_words(rates["qlora"], rates["lora"]), f"≥ {SPEED} ×"]))
    rows.append(line(["base, of its bytes in bf16", f"{share:.3f}", f"≤ {HELD}"]))
    rows.append(line(["peak of the process", f"{peaks['qlora']:.2f} GiB; LoRA {peaks['lora']:.2f} GiB", ""]))
    return "\n\n".join(
        [
            f"{result['model']}, measured {result['date']} on {machine['processor']}, {settings['threads']} threads; "
            f"{settings['repeats']} × {settings['steps']} steps of one row of 2,048 tokens, fresh processes in turn.",
            *cautions(result["runs"], settings["repeats"]),
            "\n".join(rows) + "\n",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
