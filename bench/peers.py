"""Who is measured: contestants, their tiers, and the grids in which the best of each peer is looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness import OURS, dtype

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the table. `layouts` are what its grid tries; `methods` those that it is measured with.

    `attentions`: those beside transformers' own choice that are tried with the best of the grid.
    """

    name: str
    label: str
    environment: str
    script: str
    tier: str
    layouts: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("lora", "full")
    exports: bool = True

    def options(self, batch_size: int) -> Json:
        """What is measured without a search: the defaults, or what was best on the machine we looked at first."""
        if self.tier != "tuned":
            return {"tier": self.tier}
        return {"layout": self.layouts[0], "micro_batch": max(1, batch_size // 2)}

    def grid(self, batch_size: int, method: str) -> list[Json]:
        """Every point that is tried for the best of this peer. One row at a time pads nothing: no layout to choose."""
        sizes = [size for size in (1, 2, 4, 8) if size <= batch_size]
        points = [
            {"layout": layout, "micro_batch": size}
            for size in sizes
            for layout in (self.layouts if size > 1 else self.layouts[:1])
        ]
        if method != "full" or self.tier != "tuned" or dtype() == "float32":  # which then is everyone's
            return points
        return points + [point | {"dtype": "float32"} for point in points]

    def variants(self, best: Json) -> list[Json]:
        """What is tried once the best of the grid is known; without padding only transformers' own choice works."""
        return [] if best.get("layout") == "flat" else [best | {"attention": name} for name in self.attentions]


CONTESTANTS: dict[str, Contestant] = {
    item.name: item
    for item in (
        Contestant(OURS, "Sartor", OURS, "sartor_step.py", "own"),
        Contestant("trl_default", "TRL, documented defaults", "trl", "trl_step.py", "default"),
        Contestant(
            "trl_tuned",
            "TRL, tuned",
            "trl",
            "trl_step.py",
            "tuned",
            layouts=("grouped", "rebalance", "flat"),
            attentions=("eager",),
        ),
        Contestant("hf_default", "transformers' Trainer + PEFT, defaults", "hf", "hf_step.py", "default"),
        Contestant(
            "hf_tuned",
            "transformers' Trainer + PEFT, tuned",
            "hf",
            "hf_step.py",
            "tuned",
            layouts=("grouped", "rebalance"),
            attentions=("eager",),
        ),
        Contestant(
            "llamafactory_default",
            "LLaMA-Factory, documented defaults",
            "llamafactory",
            "llamafactory_step.py",
            "default",
        ),
        Contestant(
            "llamafactory_tuned",
            "LLaMA-Factory, tuned",
            "llamafactory",
            "llamafactory_step.py",
            "tuned",
            layouts=("grouped",),
        ),
        Contestant(
            "litgpt_default",
            "litgpt, documented defaults",
            "litgpt",
            "litgpt_step.py",
            "default",
            methods=("lora",),
            exports=False,
        ),
        Contestant(
            "litgpt_tuned",
            "litgpt, tuned",
            "litgpt",
            "litgpt_step.py",
            "tuned",
            layouts=("grouped",),
            methods=("lora",),
            exports=False,
        ),
    )
}
