"""Which linear layers a method adapts: the names that recipes use, in PEFT's form, and their sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sartor.errors import RecipeError
from sartor.names import suggest

if TYPE_CHECKING:
    from sartor.hub import Shape

#: Stands for every linear layer of the blocks.
ALL = ("all-linear",)
#: Layers that some models (Phi) have in place of several, one below the other.
JOINT = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def for_peft(targets: tuple[str, ...]) -> Any:
    """PEFT reads a word other than all-linear as a pattern for whole paths, so names go in as a list, even one."""
    return "all-linear" if targets == ALL else list(targets)


def sizes_of(targets: Iterable[str], shape: Shape, setting: str = "targets") -> list[tuple[int, int]]:
    """(inputs, outputs) of each adapted layer of one block.

    Raises:
        RecipeError: a name is of no linear layer of the model's blocks. `setting` is where it stands.
    """
    known = shape.linear_sizes()
    joint = {
        name: (shape.hidden, sum(known[part][1] for part in parts))
        for name, parts in JOINT.items()
        if shape.kind == "decoder"
    }
    chosen = tuple(known) if tuple(targets) == ALL else tuple(targets)
    for name in chosen:
        if name not in known | joint:
            raise RecipeError(f"`tune.adapter.{setting}` names {name!r}", hint=suggest(name, (*ALL, *known)))
    return [(known | joint)[name] for name in chosen]
