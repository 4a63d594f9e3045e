"""Trained biases: what is added to a layer's own, or to what a layer without one gives; and how they are merged.

Shapes: N outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import nn
from transformers.pytorch_utils import Conv1D

from sartor.adapters.registration import type_named
from sartor.adapters.wrapping.layer import Wrapping
from sartor.adapters.wrapping.tuner import WrappingTuner
from sartor.errors import RecipeError

NAME = "sartor_bitfit"
#: Modules that add their bias to what they give.
KINDS = (nn.Linear, Conv1D, nn.LayerNorm)


def biased(model: Any) -> list[str]:
    """The paths of the modules with a bias."""
    return [path for path, part in model.named_modules() if isinstance(part, KINDS) and part.bias is not None]


def linear(model: Any) -> list[str]:
    """The paths of the linear layers, without the head."""
    head = model.get_output_embeddings()
    return [path for path, part in model.named_modules() if isinstance(part, KINDS[:2]) and part is not head]


def named(model: Any, targets: tuple[str, ...]) -> list[str]:
    """The paths of the modules whose names, or whose paths' ends, are given.

    Raises:
        RecipeError: a name is of no module that can have a bias.
    """
    able = [path for path, part in model.named_modules() if isinstance(part, KINDS)]
    found = {name: [path for path in able if f".{path}".endswith(f".{name}")] for name in targets}
    for name, paths in found.items():
        if not paths:
            raise RecipeError(
                f"`tune.adapter.targets` names {name!r}, and no layer of this model that can have a bias is called so",
                hint=f"for example {able[0].rpartition('.')[2]!r}",
            )
    return sorted({path for paths in found.values() for path in paths})


@dataclass
class BiasConfig(PeftConfig):  # type: ignore[misc]
    """`target_modules`: the modules whose bias is trained."""

    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = type_named(NAME)


class Bias(nn.Module):
    """One adapter's, in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))


class BiasLayer(Wrapping):
    """y := y + b."""

    adapter_layer_names = ("adapter_bias",)
    adapter_bias: nn.ModuleDict
    base_layer: Any

    def __init__(self, base_layer: Any) -> None:
        super().__init__(base_layer)
        self._bare = base_layer.bias is None

    def changed(self, adapter: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = (y + self._bias(adapter)).to(y.dtype)
        return changed

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What is merged is in the base layer, until it is to be without it or in some rows only."""
        if self.merged and (self.disable_adapters or kwargs.get("adapter_names") is not None):
            self.unmerge()
        if self.merged:
            y: torch.Tensor = self.base_layer(x)
            return y
        return super().forward(x, *args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """A layer without a bias gets a real one. `safe_merge` has no case: a sum of finite numbers is finite."""
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.settings:
                self._add(self._bias(adapter))
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """The mirror of `merge`, but for a rounding; a layer that had no bias has none again."""
        while self.merged_adapters:
            self._add(-self._bias(self.merged_adapters.pop()))
        if self._bare:
            self.base_layer.bias = None

    def _bias(self, adapter: str) -> torch.Tensor:
        return self.adapter_bias[adapter].get_parameter("weight")

    @torch.no_grad()
    def _add(self, bias_N: torch.Tensor) -> None:
        layer = self.base_layer
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(bias_N)), requires_grad=False)
        layer.bias.data = (layer.bias + bias_N).to(layer.bias.dtype)


def width_of(layer: Any) -> int:
    """The outputs of one of `KINDS`."""
    if isinstance(layer, nn.LayerNorm):
        return int(layer.normalized_shape[-1])
    return int(layer.nf if isinstance(layer, Conv1D) else layer.out_features)


class BiasTuner(WrappingTuner):
    """Puts `BiasLayer`s in place."""

    prefix = f"{NAME}_"
    tuner_layer_cls = BiasLayer

    def parts(self, config: Any, adapter: str, width: int) -> list[nn.Module]:
        return [Bias(width)]

    def width_at(self, module: nn.Module) -> int:
        return width_of(module)

    def _around(self, target: nn.Module) -> BiasLayer:
        return BiasLayer(target)

    def _check_new_adapter_config(self, config: Any) -> None:
        """Adapters of one model may stand in different places: none is inside of what another wraps."""
        super(WrappingTuner, self)._check_new_adapter_config(config)
