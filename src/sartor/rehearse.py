"""Rehearse: before the first real step, the worst one, with all that memory must hold at some time.

What fails for want of memory hours into a run fails here, in its first minute. Afterwards everything is as before, bit
by bit: the state goes to disk first and comes back last, and that it did is checked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sartor import durable
from sartor.asked import num_inserted
from sartor.backends.estimate import TRAINING
from sartor.backends.protocol import Backend
from sartor.data.fold import num_computed
from sartor.data.pack import Steps
from sartor.errors import MachineError
from sartor.evaluate import dev_loss
from sartor.events import Event, Warned
from sartor.hardware import peak_bytes
from sartor.names import resolve
from sartor.plan import Plan
from sartor.store import Restorable, Run
from sartor.types import Batch

SCANNED_STEPS = 2_000  # packing so many costs a few seconds
TOLERATED = 0.10


def rehearse(plan: Plan, run: Run, backend: Backend, steps: Steps, dev: Sequence[Batch]) -> Iterator[Event]:
    """Backward of the worst micro-batches, an optimizer step, evaluation, save and resume; then as before.

    Costs about one step. Killed at any moment it leaves a staging folder, which the next process clears.

    Raises:
        MachineError: the state that came back is not the one that went.
        NumericsError: a loss or a gradient is not finite; the rows are named.
    """
    objective = resolve("objectives", plan.objective.name)
    config = objective.Config(**plan.objective.settings)
    parts: list[Restorable] = [backend, steps]
    with (
        tempfile.TemporaryDirectory(dir=run.folder, prefix=f"{durable.STAGING}rehearsal-") as name,
        durable.atomic_dir(Path(name) / "checkpoint") as checkpoint,  # a full disk is told as it would be later
    ):
        before = _kept(parts, name)
        _advance(plan, backend, _worst(plan, steps, objective), objective, config)
        if dev:
            dev_loss(backend, objective, config, [max(dev, key=_computed(plan, share=steps.share))])
        for part in parts:
            part.save(checkpoint)
        for part in parts:
            part.load(before)
        _refuse_if_changed(before, _kept(parts, name))
    yield from _compared(plan, peak_bytes())


def _worst(plan: Plan, steps: Steps, objective: Any) -> list[Batch]:
    """The micro-batches that compute the most tokens, have the longest segment, make the most logits: often one.

    Looked for in the first epochs as they will be packed. Moves on the steps, which the caller puts back.
    """
    found = (
        _Most(_computed(plan, share=steps.share), at_most=_computed(plan, share=False)),
        _Most(lambda batch: batch.longest_segment),
        _Most(lambda batch: min(batch.num_supervised, plan.tile)),
    )
    for batch in (batch for step in islice(steps, min(plan.steps, SCANNED_STEPS)) for batch in step):
        if objective.weight(batch) != 0:
            for most in found:
                most.look_at(batch)
    worst: list[Batch] = []
    for most in found:
        if most.batch is not None and all(most.measure(batch) < most.value for batch in worst):
            worst.append(most.batch)
    return worst


@dataclass(slots=True)
class _Most:
    """The batch of which there is most of something; `at_most` is told at once, where the measure itself takes time."""

    measure: Callable[[Batch], int]
    at_most: Callable[[Batch], int] | None = None
    value: int = 0
    batch: Batch | None = None

    def look_at(self, batch: Batch) -> None:
        if self.at_most is not None and self.at_most(batch) <= self.value:
            return
        if (value := self.measure(batch)) > self.value:
            self.value, self.batch = value, batch


def _computed(plan: Plan, *, share: bool) -> Callable[[Batch], int]:
    """How many tokens a forward computes of a batch."""
    return partial(num_computed, share=share, virtual=num_inserted(plan.adapter))


def _advance(plan: Plan, backend: Backend, batches: Sequence[Batch], objective: Any, config: Any) -> None:
    """One whole optimizer step on these micro-batches; none without any, the loop itself says what is wrong then."""
    weight = backend.sum(sum(objective.weight(batch) for batch in batches))
    for batch in batches:
        backend.forward_backward(batch, objective, config, weight)
    if batches:
        backend.step(plan.adam(0))


def _kept(parts: Sequence[Restorable], beside: str) -> Path:
    """Their state in a folder of its own: nothing that must outlive this process, so without waiting for the disk."""
    folder = Path(tempfile.mkdtemp(dir=beside))
    for part in parts:
        part.save(folder)
    return folder


def _refuse_if_changed(before: Path, again: Path) -> None:
    first, second = ({file.name: durable.sha256(file) for file in folder.iterdir()} for folder in (before, again))
    if first != second:
        raise MachineError(
            "the rehearsal left its traces: the state that came back is not the one that was saved",
            hint="this is a fault of the backend's `load`; please report it",
        )


def _compared(plan: Plan, measured: int) -> Iterator[Event]:
    """What is kept of frozen layers fills up in the first epoch only, so no phase has it yet."""
    phases = [memory for name, memory in plan.estimate.memory.items() if name in TRAINING]
    foretold = max((memory.total - memory.kept for memory in phases), default=plan.estimate.peak_bytes)
    off = measured / max(1, foretold) - 1
    if abs(off) > TOLERATED:
        yield Warned(
            code="memory_estimate",
            message=f"the worst step took {measured / 2**30:.2f} GiB, {foretold / 2**30:.2f} GiB were foretold "
            f"({off:+.0%})",
            hint="training goes on; what counts is that the worst step fits",
        )
