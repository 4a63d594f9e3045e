"""Places to compute, one per file: each gives `open_backend(plan, examples)`. The protocol is in `protocol.py`."""

from __future__ import annotations

from collections.abc import Sequence

from sartor.backends.protocol import Backend
from sartor.backends.ranks import here, refuse_many
from sartor.names import resolve
from sartor.plan import Plan
from sartor.types import Batch

NOT_MEMBERS: frozenset[str] = frozenset(
    {"protocol", "beginning", "estimate", "frozen", "ranks", "placement", "optimizer", "updates", "forms"}
)


def open_backend(plan: Plan, examples: Sequence[Batch] = ()) -> Backend:
    """The plan's backend with weights, adapter and optimizer in place.

    `examples` are training batches for methods that look at data before the first step (`hooks.Hooks.num_batches`).
    On how many ranks a plan is computed is no part of it: a run may go on with another number of them.

    Raises:
        UserError: the plan's backend computes in one process, and this is one of several.
    """
    size = here().size
    refuse_many(plan.backend, size)
    name = "fsdp" if plan.backend == "torch" and size > 1 else plan.backend
    backend: Backend = resolve("backends", name).open_backend(plan, examples)
    return backend
