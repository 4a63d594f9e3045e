"""Proof: what was found. The noun that `baseline` and `prove` write, and the report and the package read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sartor.types import Frozen, Json

Verdict = Literal["ship", "keep_prompting", "more_data", "regression", "untuned"]


class Item(Frozen):
    """One held-out item answered by one arm: a line of `items.jsonl`."""

    item: str
    arm: str
    input: tuple[Json, ...]
    target: str
    output: str
    score: float
    detail: str
    finish: str
    prompt_tokens: int
    output_tokens: int
    seconds: float


class ArmResult(Frozen):
    """One arm over all items. Tokens and seconds are totals; `chosen` says what was chosen on dev, in words."""

    name: str
    score: float
    low: float
    high: float
    n: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    chosen: str = ""


class Comparison(Frozen):
    """b minus a on the same items, with a 95 % interval, the p-value of `test`, and Holm's correction of it."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    flips_up: int
    flips_down: int
    test: str


class Forgetting(Frozen):
    """Perplexity on general text that was never trained on. `change` is a share: 0.1 = 10 % worse."""

    base: float
    tuned: float
    change: float
    low: float
    high: float
    limit: float
    num_tokens: int


class Proof(Frozen):
    """The verdict and all it rests on. A baseline is a proof without a tuned arm: its verdict is `untuned`."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    verdict: Verdict
    sentence: str
    metric: str
    goal: float | None
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    forgetting: Forgetting | None
    minimum_detectable_effect: float
    needed_items: int | None
    needed_examples: int | None

    def arm(self, name: str) -> ArmResult:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def best_untuned(self) -> ArmResult:
        return max((arm for arm in self.arms if not arm.name.startswith("tuned")), key=lambda arm: arm.score)
