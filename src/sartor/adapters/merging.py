"""The changes of any adapter that PEFT can merge: whole weights, found by merging into a twin of the base."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sartor.adapters.changes import Changes, Weight
from sartor.adapters.guards import loaded
from sartor.adapters.saving import read_weights


def merged_changes(base: Any, folder: Path) -> Changes:
    """Other weights for each module that a mergeable adapter moves. The base itself stays as it is.

    Args:
        base: a loaded transformers model; merging is done in the number format in which it computes.
        folder: an adapter as PEFT writes it.
    """
    touched = _touched(base, read_weights(folder))
    merged = loaded(_twin(base, touched), folder).merge_and_unload()
    changed = {}
    for name in touched:
        after = dict(merged.get_submodule(name).named_parameters(recurse=False))
        bias = after["bias"].detach() if "bias" in after else None
        changed[name] = (Weight(after["weight"].detach(), bias),)
    return Changes(changed)


def _touched(base: Any, names: Iterable[str]) -> list[str]:
    """The modules with weights of their own that an adapter stands at, by the names of its tensors.

    So does a module that has the same weight as one of them, like a head that is tied to the embedding.
    """
    from sartor.ops.quantised_linear import QuantisedLinear

    paths = [name.removeprefix("base_model.model.") for name in names]
    starts = {path[:end] for path in paths for end, letter in enumerate(path) if letter == "."}
    parts = {name: [*part.parameters(recurse=False)] for name, part in base.named_modules()}
    packed = {name for name, part in base.named_modules() if isinstance(part, QuantisedLinear)}
    weights = {id(weight) for name in parts.keys() & starts for weight in parts[name]}
    shared = {name for name, own in parts.items() if any(id(weight) in weights for weight in own)}
    return [name for name in parts if name in shared | (packed & starts)]


def _twin(base: Any, touched: Iterable[str]) -> Any:
    """A copy with plain weights of its own in some modules; in all others it has those of the base."""
    from torch import nn

    from sartor.ops.quantised_linear import QuantisedLinear

    apart = {id(weight) for name in touched for weight in base.get_submodule(name).parameters(recurse=False)}
    # New parameters over the same numbers: PEFT turns gradients off in all that it finds.
    shared = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in base.parameters()
        if id(weight) not in apart
    }
    twin = copy.deepcopy(base, shared | {id(item): item for item in base.buffers()})
    for name in touched:
        if isinstance(part := twin.get_submodule(name), QuantisedLinear):
            parent, _, child = name.rpartition(".")
            twin.get_submodule(parent).register_module(child, _plain(part))
    return twin


def _plain(layer: Any) -> Any:
    """A quantised layer with the weight that it computes with: what is merged into packed weights would be lost."""
    import torch
    from torch import nn

    with torch.device("meta"):
        made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    made.weight, made.bias = nn.Parameter(layer.weight, requires_grad=False), layer.bias
    return made
