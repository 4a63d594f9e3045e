"""Plan: what was decided. No `None`, no "auto": every value is a value, and `reasons` names the number or rule behind.

Frozen at first launch. What changes the mathematics (seed, threads, dtype, order) is in it, so that a run can be
continued bit by bit.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from sartor.recipe import Optimizer, Quantize
from sartor.types import Form, Frozen, Json, digest_of

#: How the base's weights are held: those of the recipe, or as the checkpoint itself has them.
Quantized = Quantize | Literal["gptq", "awq"]
#: "mlp" computes gate and up again, "layer" everything but the residual stream.
Recompute = Literal["none", "mlp", "layer"]


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
    quantize: Quantized = Field(default="none", description="How the frozen weights are held in memory.")
    template: Json
    context: int
    form: Form = Field(default="decoder", description="What the base is used for; encoders choose labels, or embed.")
    labels: tuple[str, ...] = Field(default=(), description="Of a classifier: the answers of the training split.")


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


class Memory(Frozen):
    """Bytes that one phase of a run holds at its fullest moment, by what they are for."""

    runtime: int = Field(default=0, description="Python and the libraries")
    weights: int = Field(default=0, description="base weights")
    masters: int = Field(default=0, description="trained weights, fp32 masters")
    gradients: int = Field(default=0, description="gradients")
    moments: int = Field(default=0, description="optimizer, two moments")
    working: int = Field(default=0, description="working copies of the adapter")
    activations: int = Field(default=0, description="activations saved for the backward")
    attention: int = Field(default=0, description="attention scratch")
    logits: int = Field(default=0, description="one tile of logits")
    layer: int = Field(default=0, description="scratch of one layer")
    keys: int = Field(default=0, description="cached keys and values")
    disk: int = Field(default=0, description="buffer of saving or loading")
    mapped: int = Field(default=0, description="the checkpoint's file, while it is read")
    products: int = Field(default=0, description="compiled matrix products")
    kept: int = Field(default=0, description="kept of the frozen layers")

    @property
    def total(self) -> int:
        return sum(self.items().values())

    def items(self) -> dict[str, int]:
        """Name and bytes of each item that is there."""
        return {name: size for name, size in self.model_dump().items() if size}


class Estimate(Frozen):
    """What training will need: its peak is that of the fullest phase but generation, which other stages do.

    `tokens` counts every token of every example once per epoch; `seconds` are training's, `stages` those of each stage
    of the whole run. `memory` is itemised by phase: load, train, evaluate, save, resume, generate; it was reckoned for
    `fullest` tokens in a micro-batch and `supervised` positions in a tile of logits (0: those of the plan), in `layers`
    that are ours or transformers' own, on a device that holds one of so many `shards` of the weights.
    """

    peak_bytes: int
    seconds: float
    tokens: int
    fullest: int = 0
    supervised: int = 0
    layers: str = "hand-written"
    shards: int = 1
    memory: dict[str, Memory] = Field(default_factory=dict)
    stages: dict[str, float] = Field(default_factory=dict)

    @property
    def run_seconds(self) -> float:
        """The whole of `sartor run`."""
        return sum(self.stages.values())


class Plan(Frozen):
    """Everything decided about one run."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    model: ModelChoice
    backend: str
    devices: int = Field(default=1, description="GPUs that train together, each with its part of a step.")
    objective: Choice
    adapter: Choice
    family: str
    optimizer: Optimizer
    learning_rate: float
    warmup_steps: int
    schedule: Literal["linear", "constant"]
    clip: float
    weight_decay: float
    epochs: float
    steps: int
    batch_size: int
    micro_tokens: int
    recompute: Recompute = Field(default="none", description="What the backward computes again instead of keeping it.")
    tile: int = Field(default=512, description="Supervised positions whose logits are held at once.")
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
    advice: tuple[str, ...] = Field(default=(), description="Whether this is the right method, in plain words.")

    @property
    def digest(self) -> str:
        """Digest of what decides the result; the estimate, how often it makes a run save, and the words do not."""
        undeciding = {"estimate", "reasons", "advice", "save_every"}
        return digest_of(self.model_dump(mode="json", by_alias=True, exclude=undeciding))

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
