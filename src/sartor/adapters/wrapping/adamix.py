"""`SARTOR_ADAMIX`: bottlenecks of experts, one of which is drawn in each training forward; otherwise their mean.

Shapes: E experts · N outputs · K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sartor.adapters.registration import type_named
from sartor.adapters.wrapping import tuner

NAME = "sartor_adamix"


@dataclass
class AdamixConfig(tuner.BottleneckConfig):
    """`down_experts` and `up_experts`: how many there are of each layer. What is exported has one of both."""

    down_experts: int = 1
    up_experts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = type_named(NAME)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def draw(num_experts: int) -> int:
    """The number of an expert, by torch's random numbers of the CPU: no GPU has to be waited for.

    So a seed decides it, a checkpoint continues it, and a layer that is computed again for the backward, as torch sets
    the random state back for that, draws the same.
    """
    return int(torch.randint(num_experts, (), device="cpu"))


class Experts(nn.Module):
    """Linear layers as one parameter: those not drawn get a gradient of zero, so all ranks have the same gradients."""

    def __init__(self, num_experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_experts, outputs, inputs, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(num_experts, outputs, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and torch.is_grad_enabled() and len(self.weight) > 1:
            drawn = draw(len(self.weight))
            return F.linear(x, self.weight[drawn], self.bias[drawn])
        return F.linear(x, self.weight.mean(0), self.bias.mean(0))


class AdamixTuner(tuner.WrappingTuner):
    """See `adapters/adamix.py`."""

    prefix = f"{NAME}_"

    def parts(self, config: AdamixConfig, adapter: str, width: int) -> Sequence[nn.Module]:
        down = Experts(config.down_experts, width, config.size)
        for expert in down.weight.unbind():
            nn.init.kaiming_uniform_(expert, a=5**0.5)
        return down, Experts(config.up_experts, config.size, width)
