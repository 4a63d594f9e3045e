"""Tuning methods: one family per file, its members as PRESETS, every one but full tuning a PEFT method.

A file `adapters/x.py` holds `Config` (its settings), `PRESETS` (method name -> settings; the family's own name among
them), `SUMMARY`, `PAPER`, `SERVED_BY`, `MERGEABLE`, `PACKABLE`, and the functions `attach(model, config)`,
`export(model, folder)` and `count(shape, config)`. `TRAINS` says what comes out of it, and is the name of the run's
folder for that: an `adapter` on the base, or a `model` of its own.
"""

from __future__ import annotations

from typing import Any

from sartor.errors import RecipeError
from sartor.names import known, resolve, suggest

NOT_MEMBERS: frozenset[str] = frozenset({"layers"})


def methods() -> dict[str, str]:
    """Every method name and its family."""
    return {preset: family for family in known("adapters") for preset in resolve("adapters", family).PRESETS}


def family_of(method: str) -> Any:
    """The module of the family that a method belongs to.

    Raises:
        RecipeError: no family has it.
    """
    families = methods()
    if method not in families:
        raise RecipeError(f"unknown tuning method {method!r}", hint=suggest(method, tuple(sorted(families))))
    return resolve("adapters", families[method])
