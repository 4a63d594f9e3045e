"""Places to compute, one per file: each gives `open_backend(plan)`. The protocol is in `protocol.py`."""

from __future__ import annotations

from sartor.backends.protocol import Backend
from sartor.names import resolve
from sartor.plan import Plan

NOT_MEMBERS: frozenset[str] = frozenset({"protocol", "estimate"})


def open_backend(plan: Plan) -> Backend:
    """The plan's backend with weights, adapter and optimizer in place."""
    backend: Backend = resolve("backends", plan.backend).open_backend(plan)
    return backend
