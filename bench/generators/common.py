"""What every generator shares: its job, greedy answers of equal length, and the one line that it prints.

Only the standard library: this file runs in the peers' environments too. Importing it starts the clock of the start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
WARMUP_PROMPTS, WARMUP_TOKENS = 2, 4

#: (prompts, the adapter of each or None, new tokens) -> the new ids of each prompt, as many as asked for.
Answer = Callable[[Sequence[Sequence[int]], Sequence[str | None], int], list[list[int]]]


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: prompts as ids, the adapter of each (None: the base), and how long each answer is."""

    prompts: list[list[int]]
    adapters: list[str | None]
    folders: dict[str, str]
    model: str
    new_tokens: int
    dtype: str
    threads: int
    options: dict[str, Any]


def read_job() -> Job:
    """The job from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    facts = json.loads(given.job.read_text(encoding="utf-8"))
    return Job(**facts, model=given.model, threads=given.threads, options=given.options)


def measure(job: Job, answer: Answer) -> None:
    """Warm up on two prompts, answer all, print the result as one line of JSON.

    `start_seconds`: from the first line of this process to the first token that could be had. `seconds`: all answers
    in steady state, end to end.
    """
    answer([prompt[-WARMUP_TOKENS:] for prompt in job.prompts[:WARMUP_PROMPTS]], [None] * WARMUP_PROMPTS, WARMUP_TOKENS)
    ready = time.perf_counter()
    answers = answer(job.prompts, job.adapters, job.new_tokens)
    seconds = time.perf_counter() - ready
    assert [len(ids) for ids in answers] == [job.new_tokens] * len(job.prompts), "an answer of another length"
    result = {
        "start_seconds": ready - BEGAN,
        "seconds": seconds,
        "new_tokens": job.new_tokens * len(job.prompts),
        "peak_bytes": peak_bytes(),
        "digests": [hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12] for ids in answers],
    }
    print(json.dumps(result), flush=True)


def peak_bytes() -> int:
    """The kernel's high-water mark of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel gives no VmHWM: this benchmark needs Linux")
