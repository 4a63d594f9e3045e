"""`SARTOR_BOTTLENECK`: two linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sartor.adapters.registration import type_named
from sartor.adapters.wrapping import tuner

NAME = "sartor_bottleneck"


@dataclass
class BottleneckConfig(tuner.BottleneckConfig):
    """`init`: how the weights of a new adapter are drawn, see `adapters/bottleneck.py`."""

    init: str = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = type_named(NAME)


class BottleneckTuner(tuner.WrappingTuner):
    """See `adapters/bottleneck.py`."""

    prefix = f"{NAME}_"

    def parts(self, config: BottleneckConfig, adapter: str, width: int) -> Sequence[nn.Module]:
        down = nn.Linear(width, config.size, dtype=torch.float32)
        up = nn.Linear(config.size, width, dtype=torch.float32)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.bias)
        if config.init == "zero":
            nn.init.zeros_(up.weight)
        else:
            for part in (down, up):
                nn.init.trunc_normal_(part.weight, std=1e-2, a=-2e-2, b=2e-2)
        return down, up
