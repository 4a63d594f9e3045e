"""What a family does in training beside its forward. The defaults do nothing, which is what most families want."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sartor.adapters.changes import Prefix, Prompt, Rows
    from sartor.types import Batch

    Tensors = Mapping[str, torch.Tensor]


def _nothing(*arguments: Any) -> None:
    """No hook."""


def _empty(*arguments: Any) -> dict[str, Any]:
    """No entries."""
    return {}


def _zero(*arguments: Any) -> int:
    """None of them."""
    return 0


@dataclass(frozen=True, slots=True)
class Hooks:
    """In each, `model` is the attached model, and `config` the family's `Config`.

    `num_batches` training batches go to `calibrate(model, config, batches)` once, before the first step and before
    weights are laid out for speed; a run that goes on calibrates on the same ones again, then loads its state.
    `rates(model, config)`: the learning rate of a parameter, by its name, as a multiple of the plan's.
    `penalty(model, config)`: a scalar that is added to the loss once a step, or None.
    `after_step(model, config, step, num_steps)`: after update `step` (from 1), while gradients are still there.
    `state(model, config)`, `restore(model, config, tensors)`: what a checkpoint must hold beside trained weights.
    `num_virtual(config)`: places of the context that virtual tokens take at the beginning of each sequence.
    `beginning(model, config)`: those tokens as they are now, for one forward; gradients go through them to what is
    trained. The backend puts them before each segment, so the model is run without PEFT's own insertion.
    `head_rows(model, config)`: rows of the head that the method trains, likewise.
    `couple(config)`: where it is not 0, training takes each batch through the model twice, and the loss gets this times
    what the two passes' distributions differ by at supervised positions (`ops/consistency.py`), weighted as these are.
    """

    num_batches: int = 0
    calibrate: Callable[[Any, Any, Sequence[Batch]], None] = _nothing
    rates: Callable[[Any, Any], Mapping[str, float]] = _empty
    penalty: Callable[[Any, Any], torch.Tensor | None] = _nothing
    after_step: Callable[[Any, Any, int, int], None] = _nothing
    state: Callable[[Any, Any], Tensors] = _empty
    restore: Callable[[Any, Any, Tensors], None] = _nothing
    num_virtual: Callable[[Any], int] = _zero
    beginning: Callable[[Any, Any], Prompt | Prefix | None] = _nothing
    head_rows: Callable[[Any, Any], Rows | None] = _nothing
    couple: Callable[[Any], float] = _zero
