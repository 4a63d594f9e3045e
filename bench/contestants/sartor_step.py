"""Sartor: its backend and its packing, driven as `train.py` drives them, without events and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from common import ALPHA, BATCH_SIZE, IGNORED, LEARNING_RATE, RANK, SEED, Clock, Job, read_job, report

from sartor.backends import open_backend
from sartor.data.pack import Segment, pack, segment
from sartor.hardware import ENVIRONMENT
from sartor.names import resolve
from sartor.plan import Choice, Estimate, ModelChoice, Plan, ProofPlan
from sartor.planner import MICRO_TOKENS


def main() -> None:
    job = read_job()
    plan = make_plan(job)
    objective = resolve("objectives", plan.objective.name)
    config = objective.Config(**plan.objective.settings)
    backend = open_backend(plan)
    segments = [make_segment(job, row) for row in range(len(job.ids))]
    rows = [range(start, start + BATCH_SIZE) for start in range(0, len(segments), BATCH_SIZE)]
    losses, num_slots, num_trained, clock = [], [], [], Clock()
    clock.tick()
    for step, chosen in enumerate(rows):
        micro = pack([segments[row] for row in chosen], micro_tokens=plan.micro_tokens)
        weight = sum(objective.weight(batch) for batch in micro)
        sums = [backend.forward_backward(batch, objective, config, weight) for batch in micro]
        backend.step(plan.adam(step))
        clock.tick()
        losses.append(sum(part.loss for part in sums) / weight)
        num_slots.append(num_tokens(job, chosen))
        num_trained.append(sum(part.num_supervised for part in sums))
    if backend.warnings:
        raise SystemExit(f"not the fast path: {' '.join(backend.warnings)}")
    report(job, clock=clock, rows=rows, losses=losses, num_slots=num_slots, num_trained=num_trained)


def make_segment(job: Job, row: int) -> Segment:
    """A row of the workload, shifted as Sartor shifts its own."""
    return segment(str(row), job.ids[row], [float(label != IGNORED) for label in job.labels[row]])


def num_tokens(job: Job, rows: Sequence[int]) -> int:
    """Tokens of the rows: a packed batch has no other position. A row's last token is a target and never an input."""
    return sum(len(job.ids[row]) for row in rows)


def make_plan(job: Job) -> Plan:
    """What the benchmark holds equal; all else as Sartor's planner decides it. Proof and data are not looked at."""
    proof = ProofPlan(
        arms=("tuned",),
        metric=Choice(name="exact"),
        goal=0.0,
        items=1,
        dev_items=0,
        max_new_tokens=1,
        batch_size=1,
        max_forgetting=1.0,
        seed=SEED,
    )
    return Plan(
        model=ModelChoice(
            name="bench", path=job.model, revision="local", digest="", dtype="bfloat16", template={}, context=8192
        ),
        backend="torch",
        objective=Choice(name="sft"),
        adapter=Choice(name="lora", settings={"r": RANK, "alpha": ALPHA, "dropout": 0.0, "targets": ["all-linear"]}),
        family="lora",
        optimizer="adamw",
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        schedule="constant",
        clip=1.0,
        weight_decay=0.0,
        epochs=1.0,
        steps=job.num_steps,
        batch_size=BATCH_SIZE,
        micro_tokens=MICRO_TOKENS,
        max_length=max(map(len, job.ids)),
        save_every=job.num_steps,
        evaluate_every=job.num_steps,
        seed=SEED,
        num_threads=job.threads,
        environment=ENVIRONMENT,
        num_trainable=0,
        proof=proof,
        data="",
        estimate=Estimate(peak_bytes=0, seconds=0.0, tokens=0),
        reasons={},
    )


if __name__ == "__main__":
    main()
