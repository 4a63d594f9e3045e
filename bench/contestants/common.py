"""What every contestant shares: its arguments, the settings held equal, and the one line that it prints.

Only the standard library: this file runs in the peers' environments too.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IGNORED = -100
RANK, ALPHA = 16, 32
LEARNING_RATE = 2e-4
FULL_LEARNING_RATE = 2e-5  # of full fine-tuning
SEED = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: the rows in their order, the model's folder, and how many steps to take.

    `options` are the contestant's own, and four of the benchmark: `method` (lora, full), `same_steps` (grouping moves
    no row to another step), `export` (a folder for the adapter) and `export_every` (steps).
    """

    ids: list[list[int]]
    labels: list[list[int]]
    batch_size: int
    model: str
    steps: int
    warmup: int
    threads: int
    options: dict[str, Any]

    @property
    def num_steps(self) -> int:
        return self.warmup + self.steps

    @property
    def method(self) -> str:
        return str(self.options.get("method", "lora"))

    @property
    def learning_rate(self) -> float:
        return FULL_LEARNING_RATE if self.method == "full" else LEARNING_RATE

    @property
    def is_default(self) -> bool:
        """Whether the documented defaults are measured, not the best that can be found."""
        return self.options.get("tier") == "default"

    @property
    def micro_batch(self) -> int:
        """Rows of a forward: `micro_batch`, and never more than the step has."""
        return min(int(self.options.get("micro_batch", self.batch_size)), self.batch_size)

    def order(self) -> list[int]:
        """The rows in the order asked for: as they are, or `layout` grouped.

        The same rows warm up and the same are measured, whatever the layout.
        """
        if self.options.get("layout") != "grouped":
            return list(range(len(self.ids)))
        lengths, size = [len(ids) for ids in self.ids], self.batch_size
        starts = range(0, len(lengths), size) if self.options.get("same_steps") else sorted({0, self.warmup * size})
        parts = zip(starts, [*starts[1:], len(lengths)], strict=True)
        return [start + row for start, stop in parts for row in grouped(lengths[start:stop], size)]

    def export_folder(self, step: int) -> Path | None:
        """Where the adapter goes after a step (counted from 1, warm-up included); the last always does."""
        if "export" not in self.options or (step != self.num_steps and step % int(self.options["export_every"])):
            return None
        return Path(self.options["export"]) / f"step-{step:04d}"


@dataclass(slots=True)
class Clock:
    """Seconds of each optimizer step. What happens between `tick` and `resume` is not measured."""

    seconds: list[float] = field(default_factory=list)
    began: float = 0.0

    def resume(self) -> None:
        self.began = time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.began = now


def read_job() -> Job:
    """The job from the command line. `--options` is a JSON object of the contestant's own settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    workload = json.loads(given.workload.read_text(encoding="utf-8"))
    count = (given.steps + given.warmup) * workload["batch_size"]
    return Job(
        ids=workload["ids"][:count],
        labels=workload["labels"][:count],
        batch_size=workload["batch_size"],
        model=given.model,
        steps=given.steps,
        warmup=given.warmup,
        threads=given.threads,
        options=given.options,
    )


def grouped(lengths: Sequence[int], batch_size: int) -> list[int]:
    """Rows sorted by length over all steps, then these shuffled.

    transformers' `group_by_length` sorts within up to 50 steps and begins with the longest row: in a run as short as
    ours it would pad more than it does in a long one.
    """
    ranked = sorted(range(len(lengths)), key=lambda row: lengths[row])
    steps = [ranked[start : start + batch_size] for start in range(0, len(ranked), batch_size)]
    random.Random(SEED).shuffle(steps)
    return [row for step in steps for row in step]


def report(
    job: Job,
    *,
    clock: Clock,
    rows: Sequence[Sequence[int]],
    losses: Sequence[float],
    num_slots: Sequence[int],
    num_trained: Sequence[int],
    peak: int = 0,
    first_groups: Sequence[Sequence[int]] = (),
) -> None:
    """Print the result as one line of JSON.

    Args:
        rows: the rows of each optimizer step. losses: nats a supervised token, before the step's update.
        num_slots: positions computed in each step, with padding.
        num_trained: positions that the framework itself took a loss at, in each step: not counted from our labels.
        peak: bytes, where the high-water mark of the process is not that of training.
        first_groups: the first step's rows by micro-batch, where the framework averages over those.
    """
    counts = {len(clock.seconds), len(rows), len(losses), len(num_slots), len(num_trained)}
    assert counts == {job.num_steps}, f"{job.num_steps} steps were asked for, {sorted(counts)} were noted"
    measured = [row for step in rows[job.warmup :] for row in step]
    useful = sum(len(job.ids[row]) for row in measured)
    result = {
        "useful_tokens": useful,
        "supervised_tokens": sum(label != IGNORED for row in measured for label in job.labels[row]),
        "trained_tokens": sum(num_trained[job.warmup :]),
        "seconds_per_step": clock.seconds[job.warmup :],
        "warmup_seconds": clock.seconds[: job.warmup],
        "peak_bytes": peak or peak_bytes(),
        "padding": max(0.0, 1.0 - useful / sum(num_slots[job.warmup :])),
        "first_groups": [list(group) for group in first_groups or [rows[0]]],
        "first_loss": losses[0],
        "losses": list(losses),
    }
    print(json.dumps(result), flush=True)


def peak_bytes() -> int:
    """The kernel's high-water mark of this process. Not `ru_maxrss`: that one is inherited over fork and exec."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel gives no VmHWM: this benchmark needs Linux")
