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


def for_peft(targets: tuple[str, ...]) -> Any:
    """PEFT reads a word other than all-linear as a pattern for whole paths, so names go in as a list, even one."""
    return "all-linear" if targets == ALL else list(targets)


def sizes_of(targets: Iterable[str], shape: Shape, setting: str = "targets") -> list[tuple[int, int]]:
    """(inputs, outputs) of each adapted layer of one block.

    Raises:
        RecipeError: a name is of no linear layer of the model's blocks. `setting` is where it stands.
    """
    known = shape.linear_sizes()
    chosen = tuple(known) if tuple(targets) == ALL else tuple(targets)
    for name in chosen:
        if name not in known:
            raise RecipeError(f"`tune.adapter.{setting}` names {name!r}", hint=suggest(name, (*ALL, *known)))
    return [known[name] for name in chosen]
