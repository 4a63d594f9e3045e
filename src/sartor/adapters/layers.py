"""Tuning only the top of a model: which decoder layers those are. What the families with `top_layers` share."""

from __future__ import annotations

from math import ceil
from typing import Any

from sartor.errors import RecipeError


def top_layers(asked: float, num_layers: int) -> range:
    """The numbers of the decoder layers that are tuned, counted from the bottom; `asked` 0 stands for all of them.

    A number below 1 is a share of the layers, rounded up.

    Raises:
        RecipeError: the model has fewer layers.
    """
    number = ceil(asked * num_layers) if asked < 1 else int(asked)
    if number > num_layers:
        raise RecipeError(
            f"`tune.adapter.top_layers` is {asked}, and the model has {num_layers} layers",
            hint=f"at most {num_layers}; leave it out, or 0, to tune all of them",
        )
    return range(num_layers - (number or num_layers), num_layers)


def stacks(model: Any) -> list[tuple[Any, list[Any]]]:
    """A model's lists of layers, each with what stands above it: its final norm, where it has one.

    One list in a decoder and in an encoder, two in an encoder-decoder. What stands in a layer's own lists is no stack.

    Raises:
        RecipeError: the model has none.
    """
    from torch import nn

    found: list[tuple[Any, list[Any]]] = []
    nested: set[Any] = set()
    for parent in model.modules():
        children = list(parent.children())
        for place, part in enumerate(children):
            if isinstance(part, nn.ModuleList) and part not in nested:
                nested |= set(part.modules())
                found.append((part, children[place + 1 :]))
    if not found:
        raise RecipeError(
            f"`tune.adapter.top_layers`: {type(model).__name__} has no list of layers",
            hint="leave it out to tune all weights, choose them by `parameters`, or choose lora",
        )
    return found
