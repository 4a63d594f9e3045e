"""`sartor explain KEY`: what a recipe key does, when to change it, and what was decided here and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sartor.errors import UserError
from sartor.names import suggest
from sartor.plan import Plan
from sartor.recipe import Named, Recipe, fields


def explain(key: str, recipe: Recipe | None, plan: Plan | None) -> str:
    """A paragraph in plain words; a section name explains all of its keys.

    Raises:
        UserError: there is no such key.
    """
    chosen = [field for field in fields() if field[0] == key or field[0].startswith(f"{key}.") or not key]
    if not chosen:
        raise UserError(f"no recipe key {key!r}", hint=suggest(key, tuple(path for path, *_ in fields())))
    return "\n\n".join("\n".join(_lines(*field, recipe, plan)) for field in chosen)


def _lines(path: str, what: str, when: str, default: Any, recipe: Recipe | None, plan: Plan | None) -> Iterator[str]:
    yield path
    yield f"  what     {what}"
    yield f"  when     {when}"
    shown = ("decided by the plan" if _decides(path) else "none") if default is None else _shown(default)
    yield f"  default  {shown}"
    if recipe is not None:
        asked = _dig(recipe.model_dump(mode="json"), path)
        yield f"  asked    {'nothing' if asked is None else _shown(asked)}"
    if plan is not None:
        decided = _decided_path(path)
        if decided in plan.reasons:
            yield f"  decided  {_shown(_dig(plan.model_dump(mode='json'), decided))}: {plan.reasons[decided]}"


def _decided_path(path: str) -> str:
    """Where the plan keeps what a recipe key asks for."""
    section, _, key = path.partition(".")
    return {"tune": key, "prove": f"proof.{key}", "task": f"proof.{key}"}.get(section, path)


def _decides(path: str) -> bool:
    """Whether a key that is left out is decided by the plan: those of tuning and proving are."""
    return path.partition(".")[0] in ("tune", "prove")


def _dig(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _shown(value: Any) -> str:
    if isinstance(value, Named):
        return _shown(value.model_dump(mode="json"))
    if isinstance(value, dict) and set(value) == {"name", "settings"}:
        return f"{value['name']} {value['settings']}" if value["settings"] else str(value["name"])
    return str(value)
