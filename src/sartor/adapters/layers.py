"""Tuning only the top of a model: which decoder layers those are. What the families with `top_layers` share."""

from __future__ import annotations

from math import ceil

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
