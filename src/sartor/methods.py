"""The tuning methods as one table: what each trains on a model, costs beside LoRA, who serves it, and whose it is."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from sartor.adapters import methods, preset_of
from sartor.adapters.method import Server
from sartor.errors import SartorError
from sartor.hub import Shape
from sartor.jobs import settled_method
from sartor.recipe import Named
from sartor.types import Frozen, Json

#: Speed and memory as `bench/methods.py` found them; written by it.
MEASURED = Path(__file__).parent / "resources" / "methods.json"


class Method(Frozen):
    """One method on one model. `speed` and `memory` are multiples of LoRA's, 0 where nothing was measured."""

    name: str
    family: str
    summary: str
    trainable: int = Field(description="Parameters that it trains on the model; 0 where it needs settings first.")
    needs: str = Field(default="", description="What must be set, or why it does not fit the model.")
    speed: float
    memory: float
    served_by: tuple[Server, ...]
    mergeable: bool
    mixable: bool
    packable: bool
    paper: str


def table(shape: Shape) -> list[Method]:
    """Every method, on a model of these sizes, by family."""
    measured = _measured()["methods"]
    found = []
    for name, family in sorted(methods().items(), key=lambda pair: (pair[1], pair[0] != pair[1], pair[0])):
        preset, cost = preset_of(name), measured.get(name, {})
        trainable, needs = _count(name, shape)
        found.append(
            Method(
                name=name,
                family=family,
                trainable=trainable,
                needs=needs,
                speed=cost.get("speed", 0.0),
                memory=cost.get("memory", 0.0),
                **preset.model_dump(include={"summary", "served_by", "mergeable", "mixable", "packable", "paper"}),
            )
        )
    return found


def measured_on() -> str:
    """When and where speed and memory were measured; "" if they were not."""
    return str(_measured()["cost"])


def _count(name: str, shape: Shape) -> tuple[int, str]:
    """How many parameters a method trains with its own defaults; else what is in the way."""
    try:
        return settled_method(Named(name=name), shape).num_trainable, ""
    except SartorError as error:
        return 0, error.message


def _measured() -> Json:
    empty: Json = {"cost": "", "methods": {}}
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else empty
