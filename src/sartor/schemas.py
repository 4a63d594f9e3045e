"""The JSON Schemas of a run's files, by name: a contract for other programs."""

from __future__ import annotations

from pydantic import TypeAdapter

from sartor.errors import UserError
from sartor.names import suggest
from sartor.types import EXAMPLE, Json, LedgerEntry


def schema_of(name: str) -> Json:
    """The JSON Schema of one kind of file.

    Raises:
        UserError: there is no such kind.
    """
    from sartor.artifact.lineage import Lineage
    from sartor.check import Check
    from sartor.events import EVENT
    from sartor.plan import Plan
    from sartor.proof import Item, Proof
    from sartor.recipe import Recipe

    adapters: dict[str, TypeAdapter[object]] = {
        "recipe": TypeAdapter(Recipe),
        "example": EXAMPLE,  # type: ignore[dict-item]
        "ledger": TypeAdapter(LedgerEntry),
        "check": TypeAdapter(Check),
        "plan": TypeAdapter(Plan),
        "proof": TypeAdapter(Proof),
        "item": TypeAdapter(Item),
        "event": EVENT,  # type: ignore[dict-item]
        "lineage": TypeAdapter(Lineage),
    }
    if name not in adapters:
        raise UserError(f"no schema {name!r}", hint=suggest(name, tuple(sorted(adapters))))
    return adapters[name].json_schema(by_alias=True)
