"""`sartor.json`: where an adapter, or a whole tuned model, comes from.

So that it is never served on another base, template or tokenizer.
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Literal

from pydantic import Field

from sartor import __version__
from sartor.names import resolve
from sartor.plan import Plan, Quantized
from sartor.types import Form, Frozen, Json

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")


class BaseRef(Frozen):
    """The base that was tuned."""

    name: str
    path: str
    revision: str
    digest: str
    quantize: Quantized = Field(default="none", description="How its weights were held: these numbers must answer.")


class Lineage(Frozen):
    """Digests of everything that made it. `renderer` covers tokenizer, template and template arguments.

    `holds` says what lies beside it: an adapter, which needs the base, or a whole model. `form` is what it is used for;
    a classifier's answers are numbers of its `labels`.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str
    method: str
    holds: Literal["adapter", "model"] = "adapter"
    form: Form = "decoder"
    labels: tuple[str, ...] = ()
    base: BaseRef
    template: Json
    renderer: str
    stop_ids: tuple[int, ...]
    recipe: str
    data: str
    plan: str
    sartor: str
    python: str
    libraries: dict[str, str]


def lineage(name: str, plan: Plan, *, recipe: str, renderer: str, stop_ids: frozenset[int]) -> Lineage:
    """The lineage of what a plan trained."""
    return Lineage(
        name=name,
        method=plan.adapter.name,
        holds=resolve("adapters", plan.family).TRAINS,
        form=plan.model.form,
        labels=plan.model.labels,
        base=BaseRef(
            name=plan.model.name,
            path=plan.model.path,
            revision=plan.model.revision,
            digest=plan.model.digest,
            quantize=plan.model.quantize,
        ),
        template=plan.model.template,
        renderer=renderer,
        stop_ids=tuple(sorted(stop_ids)),
        recipe=recipe,
        data=plan.data,
        plan=plan.digest,
        sartor=__version__,
        python=platform.python_version(),
        libraries={library: metadata.version(library) for library in LIBRARIES},
    )
