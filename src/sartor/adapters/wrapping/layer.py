"""PEFT layers around a module of the base: the module computes as before, and an adapter changes what it gives.

Adapters are fp32, whatever the base's format: y is widened, changed and rounded once. As the base module is only
called, it may be any that gives one tensor: linear, Conv1D, quantised, a whole sublayer, a norm.

Shapes: B rows of a batch · T tokens · D width of the stream.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

#: In `adapter_names` of a mixed batch, a row that no adapter changes.
BASE = "__base__"
ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Wrapping(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A module and its adapters. Each container of `adapter_layer_names` holds one part of each adapter, by its name.

    Parts are never deeper than that, as PEFT finds an adapter's name in a key only in the last place but one.
    """

    adapter_layer_names: tuple[str, ...] = ()
    other_param_names = ("settings",)
    active_adapters: list[str]  # PEFT's

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.settings: dict[str, Any] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: list[str] = []
        for name in self.adapter_layer_names:
            self.add_module(name, nn.ModuleDict())

    @abstractmethod
    def changed(self, adapter: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What an adapter makes of the module's output y for its input x."""

    def add(self, adapter: str, config: Any, parts: Sequence[nn.Module]) -> None:
        """Put a new adapter in place, its parts in the order of `adapter_layer_names`."""
        self.settings[adapter] = config
        for name, part in zip(self.adapter_layer_names, parts, strict=True):
            container: Any = self.get_submodule(name)
            container[adapter] = part

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Several active adapters are applied one after the other."""
        y: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        if adapter_names is not None:
            return self._mixed(x, y, adapter_names)
        for adapter in self.active_adapters:
            if adapter in self.settings:
                y = self.changed(adapter, x, y)
        return y

    def _mixed(self, x: torch.Tensor, y: torch.Tensor, adapter_names: Sequence[str]) -> torch.Tensor:
        """Each row by its own adapter. A row of a batch may have become several: beams, or its tokens, as in OPT."""
        if y.shape[0] % len(adapter_names):
            raise ValueError(f"`adapter_names` names {len(adapter_names)} rows, and a module gives {tuple(y.shape)}")
        names = [name for name in adapter_names for _ in range(y.shape[0] // len(adapter_names))]
        mixed = y.clone()
        for adapter in self.settings.keys() & set(names):
            rows = torch.tensor([row for row, name in enumerate(names) if name == adapter], device=y.device)
            mixed[rows] = self.changed(adapter, x[rows], y[rows])
        return mixed

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError("this adapter is no change of weights, so it cannot be merged into the base")

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class Bottleneck(Wrapping):
    """y := y + scale · up(f(down(z))), z being y, or x for one that stands beside the module."""

    adapter_layer_names = ("adapter_down", "adapter_up")
    adapter_down: nn.ModuleDict
    adapter_up: nn.ModuleDict

    def changed(self, adapter: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        config, down, up = self.settings[adapter], self.adapter_down[adapter], self.adapter_up[adapter]
        z = x if config.place == "beside" else y
        low = ACTIVATIONS[config.activation](down(z.to(next(down.parameters()).dtype)))
        widened: torch.Tensor = y + config.scale * up(low)
        return widened.to(y.dtype)


class TunedNorm(Wrapping):
    """A norm with weights of its own for each adapter, computed in their format."""

    adapter_layer_names = ("adapter_norm",)
    adapter_norm: nn.ModuleDict

    def changed(self, adapter: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        norm = self.adapter_norm[adapter]
        changed: torch.Tensor = norm(x.to(next(norm.parameters()).dtype)).to(y.dtype)
        return changed

    def copied(self) -> list[nn.Module]:
        """The parts of a new adapter."""
        return [copy.deepcopy(self.base_layer).to(torch.float32).requires_grad_(True)]
