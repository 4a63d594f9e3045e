"""Schemas: one for each kind of file, and what the code writes is what they describe."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from sartor.artifact.lineage import lineage
from sartor.check import Check, Counts, Problem, Sample
from sartor.errors import UserError
from sartor.events import EVENT, Event, Stepped
from sartor.recipe import Recipe
from sartor.schemas import schema_of
from sartor.types import EXAMPLE, Json, LedgerEntry, Source, Text

from .events import every_event
from .plans import chat, plan
from .proofs import item, proof

NAMES = ("recipe", "example", "ledger", "check", "plan", "proof", "item", "event", "lineage")
COUNTS = dict.fromkeys(Counts.model_fields, 1) | {"dropped": {"syntax": 1}, "changed": {}}
CHECK = Check(
    ok=False,
    format="chat",
    problems=(Problem(code="leak", severity="error", message="m", hint="h", where=("a = b",)),),
    counts=Counts.model_validate(COUNTS),
    samples=(Sample(row="a:1", pieces=(("text", True),)),),
)
LINEAGE = lineage("mine", plan(), recipe="r", renderer="f", stop_ids=frozenset({2}))
RECIPE = Recipe.model_validate({"model": "m", "data": "d.jsonl", "task": "exact"})
ENTRY = LedgerEntry(action="dropped", file="t.jsonl", line=3, reason="syntax")

#: A document of each kind, as it is written.
WRITTEN: dict[str, list[Json]] = {
    "recipe": [RECIPE.model_dump(mode="json", exclude_none=True)],
    "example": [
        EXAMPLE.dump_python(example, mode="json")
        for example in (chat("q", "a"), Text(source=Source(file="t", line=1), text="x"))
    ],
    "ledger": [ENTRY.model_dump(mode="json")],
    "check": [CHECK.model_dump(mode="json", by_alias=True)],
    "plan": [plan().model_dump(mode="json", by_alias=True)],
    "proof": [
        found.model_dump(mode="json", by_alias=True)
        for found in (proof(), proof(forgetting=None, goal=0.8, needed_items=300, comparisons=()))
    ],
    "item": [item("a", "tuned", 1.0).model_dump(mode="json")],
    "event": [EVENT.dump_python(event, mode="json") for event in every_event()],
    "lineage": [LINEAGE.model_dump(mode="json", by_alias=True)],
}


def fits(value: Any, schema: Json, root: Json) -> bool:
    """Whether a value is of a schema: the part of JSON Schema that pydantic writes."""
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return sum(fits(value, one, root) for one in schema[key]) >= 1
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    return _of_type(value, schema, root)


def _of_type(value: Any, schema: Json, root: Json) -> bool:
    kinds: dict[str, Callable[[Any], bool]] = {
        "string": lambda value: isinstance(value, str),
        "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": lambda value: isinstance(value, bool),
        "null": lambda value: value is None,
        "array": lambda value: isinstance(value, list),
        "object": lambda value: isinstance(value, dict),
    }
    if "type" in schema and not kinds[schema["type"]](value):
        return False
    if isinstance(value, list):
        places = schema.get("prefixItems", [])
        rest = schema.get("items", {})
        return all(fits(one, places[place] if place < len(places) else rest, root) for place, one in enumerate(value))
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        strangers = set(value) - set(known)
        if schema.get("additionalProperties") is False and strangers:
            return False
        return set(schema.get("required", ())) <= set(value) and all(
            fits(value[key], known[key], root) for key in value if key in known
        )
    if isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        return all(fits(one, schema["additionalProperties"], root) for one in value.values())
    return True


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_has_a_schema(name: str) -> None:
    schema = schema_of(name)
    assert json.loads(json.dumps(schema)) == schema
    assert schema.get("type") == "object" or "oneOf" in schema
    assert schema == schema_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_fits_its_schema(name: str) -> None:
    schema = schema_of(name)
    assert WRITTEN[name]
    for document in WRITTEN[name]:
        assert fits(json.loads(json.dumps(document)), schema, schema), (name, document)


@pytest.mark.parametrize("name", NAMES)
def test_what_has_another_shape_does_not_fit(name: str) -> None:
    schema = schema_of(name)
    for document in WRITTEN[name]:
        assert not fits({**document, "surprise": 1}, schema, schema)
    assert not fits([], schema, schema)
    assert not fits({}, schema, schema)


@pytest.mark.parametrize("name", ["check", "plan", "proof", "lineage"])
def test_documents_carry_the_number_of_their_schema(name: str) -> None:
    assert schema_of(name)["properties"]["schema"]["const"] == 1
    assert all(document["schema"] == 1 for document in WRITTEN[name])


def test_the_keys_of_the_contract_are_there() -> None:
    keys = {name: set(schema_of(name)["properties"]) for name in ("check", "proof", "item", "plan")}
    assert keys["check"] >= {"ok", "problems", "counts"}
    assert keys["proof"] >= {"verdict", "sentence", "metric", "goal", "arms", "comparisons", "forgetting"}
    assert keys["proof"] >= {"needed_items", "needed_examples"}
    assert keys["item"] >= {"item", "arm", "input", "target", "output", "score", "prompt_tokens", "output_tokens"}
    assert keys["plan"] >= {"reasons", "estimate", "steps", "model"}
    stepped = set(Stepped.model_json_schema()["properties"])
    assert stepped >= {"type", "time", "step", "loss", "lr", "grad_norm", "num_tokens", "num_supervised", "seconds"}
    assert stepped >= {"peak_bytes"}


def test_every_kind_of_event_is_in_the_schema() -> None:
    kinds = {one.model_fields["type"].default for one in get_args(get_args(Event)[0])}
    assert set(schema_of("event")["discriminator"]["mapping"]) == kinds == {event.type for event in every_event()}


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no schema 'proofs'") as caught:
        schema_of("proofs")
    assert "did you mean 'proof'" in caught.value.hint
    assert all(name in caught.value.hint for name in NAMES)
