"""Sartor: its planner, its backend and its packing, driven as `train.py` drives them, without events and checkpoints.

With `--options '{"rehearse": true}'` it does what a whole run does to memory as well: a loss without gradients, a save
and a load.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Clock, Job, read_job, report
from sartor_plan import plan_of, tokenised

from sartor.backends import open_backend
from sartor.data.pack import Segment, pack
from sartor.hardware import prepare_environment
from sartor.names import resolve
from sartor.plan import Plan
from sartor.types import Batch


def packed(plan: Plan, segments: Sequence[Segment]) -> list[Batch]:
    """The micro-batches of a step: the one place that says how a plan packs."""
    return pack(segments, micro_tokens=plan.micro_tokens, share=True)


def main() -> None:
    prepare_environment()  # as the command line does, before torch starts
    job = read_job()
    plan = Plan.model_validate_json(Path(job.options["plan"]).read_bytes()) if "plan" in job.options else plan_of(job)
    objective = resolve("objectives", plan.objective.name)
    config = objective.Config(**plan.objective.settings)
    backend = open_backend(plan)
    segments = [item.segments[0] for item in tokenised(job)]
    rows = [range(start, start + job.batch_size) for start in range(0, len(segments), job.batch_size)]
    losses, num_trained, clock = [], [], Clock()
    clock.resume()
    for step, chosen in enumerate(rows):
        micro = packed(plan, [segments[row] for row in chosen])
        weight = sum(objective.weight(batch) for batch in micro)
        sums = [backend.forward_backward(batch, objective, config, weight) for batch in micro]
        backend.step(plan.adam(step))
        clock.tick()
        losses.append(sum(part.loss for part in sums) / weight)
        num_trained.append(sum(part.num_supervised for part in sums))
        folder = job.export_folder(step + 1)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            backend.export(folder)
            clock.resume()
    if backend.warnings and "any_path" not in job.options:
        raise SystemExit(f"not the fast path: {' '.join(backend.warnings)}")
    if job.options.get("rehearse"):
        rehearse(backend, objective, config, packed(plan, segments[: job.batch_size]))
    report(
        job,
        clock=clock,
        rows=rows,
        losses=losses,
        num_slots=[num_tokens(job, chosen) for chosen in rows],
        num_trained=num_trained,
    )


def num_tokens(job: Job, rows: Sequence[int]) -> int:
    """Tokens of the rows: a packed batch has no other position. A row's last token is a target and never an input."""
    return sum(len(job.ids[row]) for row in rows)


def rehearse(backend: Any, objective: Any, config: Any, batches: Sequence[Batch]) -> None:
    """What a run does beside its steps."""
    for batch in batches:
        backend.forward_backward(batch, objective, config, 1.0, grad=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backend.save(folder)
        backend.load(folder)


if __name__ == "__main__":
    main()
