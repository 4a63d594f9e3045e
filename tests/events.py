"""One event of every kind, in the order of a run."""

from __future__ import annotations

from typing import Any

from sartor.events import (
    Advanced,
    Answered,
    Entered,
    Evaluated,
    Failed,
    Finished,
    Saved,
    Skipped,
    Started,
    Stepped,
    Stopped,
    Warned,
)


def stepped(step: int = 1, **changes: Any) -> Stepped:
    values: dict[str, Any] = {
        "step": step,
        "loss": 1.25,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "num_tokens": 300,
        "num_supervised": 100,
        "seconds": 0.5,
        "peak_bytes": 2**30,
    }
    return Stepped(**{**values, **changes})


def every_event(text: str = "words") -> list[Any]:
    """All kinds; `text` stands wherever a user's or a model's words may."""
    return [
        Entered(stage=text, number=1, of=6, seconds=90.0),
        Skipped(stage=text, reason=text),
        Advanced(step=text, done=10, total=0),
        Answered(arm=text, done=3, total=10),
        Started(run=text, plan="d", step=0, steps=4),
        Warned(code=text, message=text, hint=text),
        Warned(code=text, message=text),
        stepped(1),
        Evaluated(step=1, loss=1.5, num_supervised=40),
        Saved(step=1, path=text),
        Stopped(step=1),
        Finished(step=4),
        Failed(error=text, message=text, hint=text),
    ]
