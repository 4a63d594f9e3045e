"""`SARTOR_KRONA_B`: a Kronecker product beside the feed-forward layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sartor.adapters.registration import type_named
from sartor.adapters.wrapping import tuner
from sartor.adapters.wrapping.layer import Wrapping
from sartor.ops.kronecker import kron_linear

NAME = "sartor_krona_b"


@dataclass
class KronaConfig(tuner.WrappingConfig):
    """`factor` is the number of rows of the left factor."""

    factor: int = 1
    scale: float = 1.0
    residual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = type_named(NAME)


class Kron(nn.Module):
    """s (A ⊗ B) x + r x, of a square A ⊗ B; r is there where there is a residual."""

    def __init__(self, config: KronaConfig, width: int) -> None:
        super().__init__()
        self._scale, factor, rest = config.scale, config.factor, width // config.factor
        self.left = nn.Parameter(torch.empty(factor, rest, dtype=torch.float32))
        self.right = nn.Parameter(torch.zeros(rest, factor, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.left, a=5**0.5)
        self.residual = nn.Parameter(torch.zeros((), dtype=torch.float32)) if config.residual else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = self._scale * kron_linear(x, self.left, self.right)
        return product if self.residual is None else product + self.residual * x


class KronLayer(Wrapping):
    """y := y + s (A ⊗ B) x + r x."""

    adapter_layer_names = ("adapter_kron",)
    adapter_kron: nn.ModuleDict

    def changed(self, adapter: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        kron = self.adapter_kron[adapter]
        widened: torch.Tensor = y + kron(x.to(next(kron.parameters()).dtype))
        return widened.to(y.dtype)


class KronaTuner(tuner.WrappingTuner):
    """See `adapters/krona_b.py`."""

    prefix = f"{NAME}_"
    layer = KronLayer

    def parts(self, config: KronaConfig, adapter: str, width: int) -> Sequence[nn.Module]:
        return (Kron(config, width),)
