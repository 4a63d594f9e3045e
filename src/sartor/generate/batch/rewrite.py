"""What adapters make of modules that are no linear layers: norms, embeddings, whole sublayers.

A hook after the module, so that it stays where the model's own code looks for it. Other weights live in a twin of it,
which gives the rows of the adapter's own tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sartor.adapters.changes import Change, Scale, Weight
from sartor.errors import ModelError
from sartor.generate.batch.after import After, after_of
from sartor.generate.batch.runs import Runs


class Rewrite:
    """A forward hook that puts what adapters make of a module in the place of what it gave, each for its own tokens.

    Args:
        name, module: the module before anything was changed in it.
        adapters: the changes of each adapter that has some here, by its number.
        runs: the adapters of the current forward's tokens.
        faster: another module that gives what a twin gives, or the twin itself.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        adapters: Mapping[int, Sequence[Change]],
        runs: Runs,
        faster: Callable[[nn.Module], nn.Module],
    ) -> None:
        self._runs = runs
        self._own: dict[int, tuple[nn.Module | None, list[After]]] = {}
        for number, changes in adapters.items():
            twin = None
            for change in changes:
                if isinstance(change, Scale) and change.input_K is not None:
                    raise ModelError(
                        f"an adapter scales what {name} reads, and that is no linear layer",
                        hint="the adapter belongs to another base model",
                    )
                if isinstance(change, Weight):
                    twin = faster(_twin(name, module, change))
            dtype = next((weight.dtype for weight in module.parameters()), torch.float32)
            self._own[number] = twin, [step for change in changes for step in after_of(change, dtype)]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gave: Any) -> Any:
        runs = self._runs.of(self._own)
        if not runs:
            return gave
        read = args[0] if args else kwargs["hidden_states"]
        made = (gave[0] if isinstance(gave, tuple) else gave).clone()
        for run in runs:
            twin, steps = self._own[run.adapter]
            if twin is not None:
                made[:, run.rows] = twin(read[:, run.rows])
            for step in steps:
                step(read[:, run.rows], made[:, run.rows])
        return (made, *gave[1:]) if isinstance(gave, tuple) else made


def _twin(name: str, module: nn.Module, change: Weight) -> nn.Module:
    """A copy of a module that has another weight, and holds nothing else of its own that is large."""
    own = dict(module.named_parameters(recurse=False))
    weight, bias_N = own.get("weight"), own.get("bias")
    if weight is None or weight.shape != change.weight.shape or (bias_N is None and change.bias_N is not None):
        raise ModelError(
            f"an adapter has another weight for {name}, which has none of that size in this model",
            hint="the adapter belongs to another base model",
        )
    memo: dict[int, Any] = {id(weight): _frozen(change.weight, weight)}
    if bias_N is not None:
        memo[id(bias_N)] = _frozen(bias_N if change.bias_N is None else change.bias_N, bias_N)
    return copy.deepcopy(module, memo)


def _frozen(value: torch.Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(value.detach().to(like.dtype), requires_grad=False)
