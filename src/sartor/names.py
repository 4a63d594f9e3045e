"""The registry: the file name is the name. `known("metrics")` lists the files of `sartor/metrics/`.

Three sources, in this order: a file of the folder `sartor/<kind>/`; an entry point of the group `sartor.<kind>`
(another package); and `module:attribute` for the user's own code, for the kinds that allow it.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sartor.errors import RecipeError

#: Kinds whose member may be named as `module:attribute`, that is, come from the user's own file.
OPEN_KINDS = frozenset({"metrics"})
#: What one member of a kind is called, where that is not the kind without its s.
_WORDS = {
    "augment": "way to augment",
    "build": "builder",
    "collect": "source",
    "data.clean": "cleaner",
    "workshop": "step",
}


def known(kind: str) -> tuple[str, ...]:
    """The names of a kind, sorted: files of the leaf folder and entry points of other packages."""
    return tuple(sorted(_files(kind) | _plugins(kind).keys()))


def resolve(kind: str, name: str) -> Any:
    """The module (or object) that a name stands for.

    Raises:
        RecipeError: the name is not known; the hint offers the nearest names.
    """
    if ":" in name and kind in OPEN_KINDS:
        return _users_own(kind, name)
    if name in _files(kind):  # looked at first: entry points are read from the folders of all installed packages
        with uncollected():
            return importlib.import_module(f"sartor.{kind}.{name}")
    if name not in known(kind):
        raise RecipeError(f"unknown {_singular(kind)} {name!r}", hint=suggest(name, known(kind)))
    return _plugins(kind)[name].load()


def users_file(name: str) -> Path | None:
    """The file of the user's own code that `module:attribute` names; None of any other name."""
    module_name, colon, _ = name.partition(":")
    file = importlib.import_module(module_name).__file__ if colon else None
    return Path(file) if file else None


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's garbage collector rests meanwhile: for a start, where half a million objects are made that all stay.

    To look through them again and again was 1.5 s of the 8 that an engine's libraries take to import.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def suggest(name: str, choices: tuple[str, ...]) -> str:
    """A hint for a mistyped name: the nearest choice if one is near, and all of them."""
    near = difflib.get_close_matches(name, choices, n=1)
    listed = ", ".join(choices) or "none"
    return f"did you mean {near[0]!r}? Known: {listed}" if near else f"known: {listed}"


@cache
def _files(kind: str) -> frozenset[str]:
    package = importlib.import_module(f"sartor.{kind}")
    helpers: frozenset[str] = package.NOT_MEMBERS
    return frozenset(module.name for module in pkgutil.iter_modules(package.__path__)) - helpers


@cache
def _plugins(kind: str) -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=f"sartor.{kind}")}


def _users_own(kind: str, name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise RecipeError(f"{name!r} is not of the form module:attribute", hint="for example my_metrics:score")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise RecipeError(
            f"no module {module_name!r} for the {_singular(kind)} {name!r}",
            hint="put the file on PYTHONPATH, and name it as module:attribute",
        ) from error
    if attribute not in vars(module):
        raise RecipeError(f"{module_name!r} has no {attribute!r}", hint=suggest(attribute, tuple(sorted(vars(module)))))
    return vars(module)[attribute]


def _singular(kind: str) -> str:
    return _WORDS.get(kind, kind.removesuffix("s"))
