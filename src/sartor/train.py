"""THE loop: the only one that steps an optimizer. A generator of events; stopping is a flag, not an exception."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sartor.backends import open_backend
from sartor.backends.protocol import Backend
from sartor.backends.ranks import here, keeper, share
from sartor.data.pack import Steps
from sartor.errors import DataError
from sartor.evaluate import dev_loss
from sartor.events import Evaluated, Event, Finished, Saved, Started, Stepped, Stopped, Warned
from sartor.hardware import peak_bytes
from sartor.names import resolve
from sartor.plan import Plan
from sartor.rehearse import rehearse
from sartor.store import Run
from sartor.types import Batch, digest_of

#: Of a plan what no weight depends on, or only in the last bits of its sums, as on the number of ranks. A plan that is
#: made anew has measured the machine anew: where it differs in nothing else, it goes on from the old one's checkpoints.
UNDECIDING: dict[str, Any] = {
    "model": {"name", "path", "revision"},  # its digest says what it is
    "devices": True,
    **dict.fromkeys(("estimate", "reasons", "advice", "proof", "save_every"), True),
    **dict.fromkeys(("micro_tokens", "recompute", "tile", "num_threads", "environment"), True),
}


def train(
    plan: Plan, run: Run, steps: Steps, dev: Sequence[Batch], finishing: Callable[[Path], None] = lambda folder: None
) -> Iterator[Event]:
    """Train one policy, from the newest checkpoint of its plan that verifies. Ends with the export into the run.

    `finishing` adds to the export's folder what the backend does not know of, before it is sealed.
    """
    objective = resolve("objectives", plan.objective.name)
    config = objective.Config(**plan.objective.settings)
    backend = open_backend(plan, _first(plan, steps))
    place = here()
    files = keeper(run, place, backend.sum)  # of several ranks, only the first writes
    decided = decided_by(plan)
    start = files.restore([backend, steps], decided)
    yield from _opening(plan, run, backend, start)
    if start == 0 and place.size == 1:  # a rehearsal saves and loads in one process, and of ranks only the first saves
        yield from rehearse(plan, run, backend, steps, dev)
    elif start == 0:
        yield Warned(
            code="no_rehearsal", message=f"{place.size} ranks do not rehearse: the worst step comes when it comes"
        )
    for step in range(start, plan.steps):
        began = time.monotonic()
        micro = share(next(steps), place)
        weight = backend.sum(sum(objective.weight(batch) for batch in micro))  # known before any forward
        if weight == 0:
            raise DataError(f"step {step + 1} has no trained token", hint="`sartor check` names such rows")
        sums = [backend.forward_backward(batch, objective, config, weight) for batch in micro]
        norm = backend.step(plan.adam(step))
        yield Stepped(
            step=step + 1,
            loss=backend.sum(sum(part.loss for part in sums)) / weight,
            lr=plan.lr(step),
            grad_norm=norm,
            num_tokens=int(backend.sum(sum(part.num_tokens for part in sums))),
            num_supervised=int(backend.sum(sum(part.num_supervised for part in sums))),
            seconds=time.monotonic() - began,
            peak_bytes=peak_bytes(),
        )
        stopping = backend.sum(run.stopping) > 0  # one answer for all ranks
        if dev and plan.evaluates(step):
            loss, num_supervised = dev_loss(backend, objective, config, share(dev, place))
            yield Evaluated(step=step + 1, loss=loss, num_supervised=num_supervised)
        if plan.saves(step) or stopping:
            yield Saved(step=step + 1, path=files.save(step + 1, [backend, steps], decided).name)
        if stopping and step + 1 < plan.steps:
            run.stopping = True  # whichever rank was asked
            yield Stopped(step=step + 1)
            return
    files.export(backend.export, finishing)
    yield Finished(step=plan.steps)


def decided_by(plan: Plan) -> str:
    """The digest of what decides the weights after each step: data and base by content, method, course and seed."""
    return digest_of(plan.model_dump(mode="json", by_alias=True, exclude=UNDECIDING))


def _first(plan: Plan, steps: Steps) -> list[Batch]:
    """The first training batches, as many as the tuning method looks at before it begins."""
    wanted = resolve("adapters", plan.family).HOOKS.num_batches
    batches = [batch for step in islice(steps, wanted) for batch in step] if wanted else []
    steps.position = 0
    return batches[:wanted]


def _opening(plan: Plan, run: Run, backend: Backend, start: int) -> Iterator[Event]:
    """Where training begins, and what was found on the way there."""
    onward = f"training goes on from step {start}" if start else "training begins anew"
    for problem in run.skipped_checkpoints:
        yield Warned(code="skipped_checkpoint", message=problem, hint=onward)
    for message in backend.warnings:
        yield Warned(code="slow_path", message=message)
    yield Started(run=run.id, plan=plan.digest, step=start, steps=plan.steps)
