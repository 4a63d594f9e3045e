"""Sartor tailors a language model to your work, and proves that it fits.

The public API, in reading order:

    load_recipe(path)      a Recipe: what was asked
    open_run(path, recipe) the Run of a recipe: its folder, stages, checkpoints, events
    Bench(run)             a run on the workbench: base, renderer, data, plan, opened when needed
    run_until(bench, stage)  check, baseline, plan, train, prove, package: a generator of events
    Recipe, Plan, Proof    the nouns that these read and write
    SartorError            the base of all errors; each has a hint

Importing this package loads nothing heavy: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "load_recipe": ("recipe", "load"),
    "open_run": ("store", "open_run"),
    "Bench": ("stages", "Bench"),
    "run_until": ("stages", "run_until"),
    "Recipe": ("recipe", "Recipe"),
    "Plan": ("plan", "Plan"),
    "Proof": ("proof", "Proof"),
    "SartorError": ("errors", "SartorError"),
}

__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'sartor' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return vars(importlib.import_module(f"sartor.{module}"))[attribute]
