"""Run a verb elsewhere, one way per file."""

from __future__ import annotations

NOT_MEMBERS: frozenset[str] = frozenset({"signals"})
