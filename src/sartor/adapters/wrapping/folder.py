"""What is in the folder of such an adapter, and what that makes of the modules of a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sartor.adapters import saving
from sartor.adapters.changes import Bottleneck, Change, Changes, Weight
from sartor.types import Json

if TYPE_CHECKING:
    import torch

    Parts = Mapping[str, torch.Tensor]

#: Where a tuner keeps what all its layers share.
SHARED = "base_model"


def read(folder: Path) -> tuple[Json, dict[str, dict[str, torch.Tensor]]]:
    """The configuration, and the parts by the module of the base at which they stand, such as `down.weight`."""
    return saving.read_config(folder), saving.by_module(folder, ".adapter_")


def changes_of(modules: Mapping[str, Parts], change: Callable[[Parts], Change]) -> Changes:
    """The changes of all modules: tuned norms as they are, the rest by what their family says."""
    found: dict[str, tuple[Change]] = {}
    for name, parts in modules.items():
        if "norm.weight" in parts:
            found[name] = (Weight(parts["norm.weight"], parts.get("norm.bias")),)
        elif name != SHARED:
            found[name] = (change(parts),)
    return Changes(found)


def bottleneck(settings: Json, parts: Parts) -> Bottleneck:
    """The change of one bottleneck of two linear layers."""
    return Bottleneck(
        down_MK=parts["down.weight"],
        down_bias_M=parts["down.bias"],
        up_NM=parts["up.weight"],
        up_bias_N=parts["up.bias"],
        activation=settings["activation"],
        scale=settings["scale"],
        reads="input" if settings["place"] == "beside" else "output",
    )
