"""What a backend does: four verbs, enough for supervised, preference and online training, and its own state on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from sartor.plan import Adam
from sartor.types import Batch, Sums


class Backend(Protocol):
    """A policy that can be trained. Gradients accumulate between two `step`s."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the start-up self-checks found: each a sentence for the user."""
        ...

    def forward_backward(self, batch: Batch, objective: Any, config: Any, weight: float, *, grad: bool = True) -> Sums:
        """Add the gradient of `objective.loss / weight`. With `grad=False` the same path, without gradients."""
        ...

    def step(self, adam: Adam) -> float:
        """Update the weights and clear the gradients; the gradient's norm before clipping.

        Raises:
            NumericsError: a loss or a gradient is not finite. Names the rows; the weights are untouched.
        """
        ...

    def sum(self, value: float) -> float:
        """The sum of a number over all ranks."""
        ...

    def save(self, folder: Path) -> None:
        """Weights, optimizer and random state into a checkpoint folder: safetensors and JSON."""
        ...

    def load(self, folder: Path) -> None:
        """The mirror of `save`, bit by bit."""
        ...

    def export(self, folder: Path) -> None:
        """The result in its public format: a PEFT folder."""
        ...
