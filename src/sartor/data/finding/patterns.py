"""Data files of patterns that come with Sartor: one on each line, notes after `#`."""

from __future__ import annotations

from importlib import resources


def lines_of(name: str) -> tuple[str, ...]:
    """The lines of a file in `sartor/resources`, without notes and empty ones."""
    text = resources.files("sartor.resources").joinpath(name).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))
