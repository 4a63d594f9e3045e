"""A proof, its parts and a record, any field of which can be given."""

from __future__ import annotations

from typing import Any

from sartor.proof import ArmResult, Comparison, Forgetting, Item, Proof


def arm(name: str, score: float, **changes: Any) -> ArmResult:
    values: dict[str, Any] = {
        "name": name,
        "score": score,
        "low": max(0.0, score - 0.1),
        "high": min(1.0, score + 0.1),
        "n": 60,
        "prompt_tokens": 1200,
        "output_tokens": 300,
        "seconds": 12.0,
    }
    return ArmResult(**{**values, **changes})


def proof(**changes: Any) -> Proof:
    """A proof that says: ship."""
    values: dict[str, Any] = {
        "verdict": "ship",
        "sentence": "Ship it: tuning moves exact from 20.0% to 70.0%.",
        "metric": "exact",
        "goal": None,
        "arms": (arm("zero_shot", 0.1), arm("few_shot", 0.2, chosen="3 shots, chosen on dev"), arm("tuned", 0.7)),
        "comparisons": (
            Comparison(
                a="few_shot",
                b="tuned",
                difference=0.5,
                low=0.37,
                high=0.63,
                p=1e-9,
                p_adjusted=2e-9,
                flips_up=30,
                flips_down=0,
                test="mcnemar_exact",
            ),
        ),
        "forgetting": Forgetting(base=20.0, tuned=21.0, change=0.05, low=0.01, high=0.09, limit=0.15, num_tokens=4000),
        "minimum_detectable_effect": 0.1,
        "needed_items": None,
        "needed_examples": None,
    }
    return Proof(**{**values, **changes})


def item(name: str, arm_name: str, score: float, **changes: Any) -> Item:
    values: dict[str, Any] = {
        "item": name,
        "arm": arm_name,
        "input": ({"role": "user", "content": f"question {name}"},),
        "target": "right",
        "output": "right" if score else "wrong",
        "score": score,
        "detail": "",
        "finish": "stop",
        "prompt_tokens": 20,
        "output_tokens": 2,
        "seconds": 0.5,
    }
    return Item(**{**values, **changes})
