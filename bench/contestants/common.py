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
BATCH_SIZE = 8  # examples of an optimizer step
RANK, ALPHA = 16, 32
LEARNING_RATE = 2e-4
SEED = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: the rows in their order, the model's folder, and how many steps to take."""

    ids: list[list[int]]
    labels: list[list[int]]
    model: str
    steps: int
    warmup: int
    threads: int
    options: dict[str, Any]

    @property
    def num_steps(self) -> int:
        return self.warmup + self.steps


@dataclass(slots=True)
class Clock:
    """Notes when each optimizer step ended. The first time is that before the first step."""

    ends: list[float] = field(default_factory=list)

    def tick(self) -> None:
        self.ends.append(time.perf_counter())


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
    count = (given.steps + given.warmup) * BATCH_SIZE
    return Job(
        ids=workload["ids"][:count],
        labels=workload["labels"][:count],
        model=given.model,
        steps=given.steps,
        warmup=given.warmup,
        threads=given.threads,
        options=given.options,
    )


def grouped(lengths: Sequence[int]) -> list[int]:
    """Rows sorted by length over the whole run, then the optimizer steps shuffled, so that warm-up is like the rest.

    transformers' `group_by_length` sorts within up to 50 steps and begins with the longest row: in a run as short as
    ours it would pad more than it does in a long one, and warm up on the longest.
    """
    ranked = sorted(range(len(lengths)), key=lambda row: lengths[row])
    steps = [ranked[start : start + BATCH_SIZE] for start in range(0, len(ranked), BATCH_SIZE)]
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
) -> None:
    """Print the result as one line of JSON.

    Args:
        rows: the rows of each optimizer step. losses: nats a supervised token, before the step's update.
        num_slots: positions computed in each step, with padding.
        num_trained: positions that the framework itself took a loss at, in each step: not counted from our labels.
    """
    assert len(clock.ends) == job.num_steps + 1 == len(losses) + 1 == len(rows) + 1 == len(num_slots) + 1
    measured = [row for step in rows[job.warmup :] for row in step]
    useful = sum(len(job.ids[row]) for row in measured)
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)][job.warmup :]
    result = {
        "useful_tokens": useful,
        "supervised_tokens": sum(label != IGNORED for row in measured for label in job.labels[row]),
        "trained_tokens": sum(num_trained[job.warmup :]),
        "seconds_per_step": seconds,
        "peak_bytes": peak_bytes(),
        "padding": max(0.0, 1.0 - useful / sum(num_slots[job.warmup :])),
        "first_loss": losses[0],
        "first_rows": list(rows[0]),
        "final_loss": losses[-1],
    }
    print(json.dumps(result), flush=True)


def peak_bytes() -> int:
    """The kernel's high-water mark of this process. Not `ru_maxrss`: that one is inherited over fork and exec."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel gives no VmHWM: this benchmark needs Linux")
