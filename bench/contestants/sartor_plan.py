"""Sartor's plan of a job: the one place where the benchmark asks the planner.

What the benchmark holds equal is asked for; all else (micro-batch, precision, threads, environment) is the planner's.
"""

from __future__ import annotations

from typing import Any

from common import ALPHA, IGNORED, RANK, SEED, Job

from sartor.data.pack import segment
from sartor.data.prepare import Tokenised
from sartor.hardware import Hardware, look
from sartor.hub import find, shape
from sartor.plan import Plan
from sartor.planner import decide, with_speed
from sartor.recipe import ModelSpec, Recipe
from sartor.types import Source, Text


def plan_of(job: Job) -> Plan:
    """The plan of a job. `options` may hold `tune` (keys of the recipe) and `hardware` (facts of another machine).

    Raises:
        MachineError: the planner says that it does not fit.
    """
    base = find(ModelSpec(name=job.model))
    examples = tokenised(job)
    plan = decide(
        recipe(job),
        base,
        shape(base.folder),
        hardware(job),
        train=examples,
        test=examples[: job.batch_size],
        data="",
    )
    return plan.model_copy(update={"warmup_steps": 0, "schedule": "constant", "weight_decay": 0.0, "clip": 1.0})


def recipe(job: Job) -> Recipe:
    """What the benchmark holds equal, in the words of a recipe."""
    lora = {"r": RANK, "alpha": ALPHA, "dropout": 0.0, "targets": ["all-linear"]}
    tune: dict[str, Any] = {
        "adapter": {"name": "full"} if job.method == "full" else {"name": "lora", **lora},
        "steps": job.num_steps,
        "batch_size": job.batch_size,
        "learning_rate": job.learning_rate,
        "save_every": job.num_steps,
        "seed": SEED,
        **job.options.get("tune", {}),
    }
    return Recipe.model_validate({"model": job.model, "data": "none.jsonl", "task": "exact", "tune": tune})


def hardware(job: Job) -> Hardware:
    """This machine, measured."""
    folder = find(ModelSpec(name=job.model)).folder
    here = look(folder).model_copy(update={"num_cores": job.threads, **job.options.get("hardware", {})})
    return with_speed(here, shape(folder))


def tokenised(job: Job) -> list[Tokenised]:
    """The rows as the planner and the loop know them: shifted as Sartor shifts its own."""
    return [
        Tokenised(
            example=Text(source=Source(file="rows", line=row + 1), text=""),
            segments=(segment(str(row), job.ids[row], [float(label != IGNORED) for label in job.labels[row]]),),
            exact=True,
            stop_trained=True,
        )
        for row in range(len(job.ids))
    ]
