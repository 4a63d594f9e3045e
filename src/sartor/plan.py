"""Plan: what was decided. No `None`, no "auto": every value is a value, and `reasons` names the number or rule behind.

Frozen at first launch. What changes the mathematics (seed, threads, dtype, order) is in it, so that a run can be
continued bit by bit.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from sartor.types import Frozen, Json, digest_of


class Choice(Frozen):
    """A member of a kind with its settings: an objective, a metric."""

    name: str
    settings: Json = Field(default_factory=dict)


class ModelChoice(Frozen):
    """The base model on this machine and how it is computed."""

    name: str
    path: str
    revision: str
    digest: str
    dtype: Literal["bfloat16", "float32"]
    template: Json
    context: int


class Adam(Frozen):
    """The optimizer's settings for one step: the backend gets them on every call."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0


class ProofPlan(Frozen):
    """What baseline and proof do: decided before either, so that both answer the same items in the same way."""

    arms: tuple[str, ...]
    metric: Choice
    goal: float = Field(description="0 stands for no goal: beating the best untuned arm decides.")
    items: int
    dev_items: int
    max_new_tokens: int
    batch_size: int
    max_forgetting: float
    seed: int


class Estimate(Frozen):
    """What training will need. `tokens` counts every token of every example once per epoch."""

    peak_bytes: int
    seconds: float
    tokens: int


class Plan(Frozen):
    """Everything decided about one run."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    model: ModelChoice
    backend: str
    objective: Choice
    adapter: Choice
    family: str
    optimizer: Literal["adamw", "sgd"]
    learning_rate: float
    warmup_steps: int
    schedule: Literal["linear", "constant"]
    clip: float
    weight_decay: float
    epochs: float
    steps: int
    batch_size: int
    micro_tokens: int
    max_length: int
    save_every: int
    evaluate_every: int
    seed: int
    num_threads: int
    environment: dict[str, str]
    num_trainable: int
    proof: ProofPlan
    data: str = Field(description="Digest of the prepared examples.")
    estimate: Estimate
    reasons: dict[str, str]

    @property
    def digest(self) -> str:
        """Digest of what decides the result; the estimate and the words do not."""
        return digest_of(self.model_dump(mode="json", by_alias=True, exclude={"estimate", "reasons"}))

    def lr(self, step: int) -> float:
        """The learning rate of a step (0-based): linear warm-up, then the schedule down to zero, or constant."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (self.steps - step) / max(1, self.steps - self.warmup_steps)

    def adam(self, step: int) -> Adam:
        return Adam(learning_rate=self.lr(step), weight_decay=self.weight_decay, clip=self.clip)

    def evaluates(self, step: int) -> bool:
        """Whether the dev loss is taken after this step (0-based); always after the last."""
        return (step + 1) % self.evaluate_every == 0 or step + 1 == self.steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows this step (0-based); always after the last."""
        return (step + 1) % self.save_every == 0 or step + 1 == self.steps


def steps_of(epochs: float, num_examples: int, batch_size: int) -> int:
    """Optimizer steps that show each example `epochs` times."""
    return max(1, math.ceil(epochs * num_examples / batch_size))
