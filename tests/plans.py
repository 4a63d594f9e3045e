"""A small plan for the fake backend, and examples to go with it."""

from __future__ import annotations

from typing import Any

from sartor.data.pack import Segment, segment
from sartor.plan import Choice, Estimate, ModelChoice, Plan, ProofPlan
from sartor.types import Chat, Message, Source


def plan(**changes: Any) -> Plan:
    """Ten steps of the fake backend, two examples each."""
    values: dict[str, Any] = {
        "model": ModelChoice(
            name="m", path="/m", revision="local", digest="d", dtype="float32", template={}, context=64
        ),
        "backend": "fake",
        "objective": Choice(name="sft"),
        "adapter": Choice(name="lora"),
        "family": "lora",
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "warmup_steps": 2,
        "schedule": "linear",
        "clip": 1.0,
        "weight_decay": 0.0,
        "epochs": 1.0,
        "steps": 10,
        "batch_size": 2,
        "micro_tokens": 16,
        "max_length": 16,
        "save_every": 4,
        "evaluate_every": 3,
        "seed": 17,
        "num_threads": 1,
        "environment": {},
        "num_trainable": 4096,
        "proof": ProofPlan(
            arms=("zero_shot", "tuned"),
            metric=Choice(name="exact"),
            goal=0.0,
            items=20,
            dev_items=4,
            max_new_tokens=8,
            batch_size=4,
            max_forgetting=0.15,
            seed=17,
        ),
        "data": "e",
        "estimate": Estimate(peak_bytes=1, seconds=1.0, tokens=1),
        "reasons": {},
    }
    return Plan(**{**values, **changes})


def chat(prompt: str, target: str, *, line: int = 1, system: str = "") -> Chat:
    """One question and its answer."""
    turns = (Message(role="user", content=prompt), Message(role="assistant", content=target))
    leading = (Message(role="system", content=system),) if system else ()
    return Chat(source=Source(file="rows.jsonl", line=line), messages=(*leading, *turns))


def segments(count: int, *, longest: int = 9) -> list[list[Segment]]:
    """Examples of one segment each, of different lengths, whose tokens are theirs alone; the first two are prompt."""
    made = []
    for row in range(count):
        ids = [row * 100 + place for place in range(4 + row % (longest - 2))]
        made.append([segment(f"row {row}", ids, [0.0, 0.0, *[1.0] * (len(ids) - 2)])])
    return made
