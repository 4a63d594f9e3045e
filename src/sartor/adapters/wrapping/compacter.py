"""`SARTOR_COMPACTER`: bottlenecks of hypercomplex (PHM) layers, one rule for all of an adapter's layers.

Shapes as in `ops/kronecker.py`; the rule of an adapter, (N, N, N), is kept by the tuner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sartor.adapters.registration import type_named
from sartor.adapters.wrapping import tuner
from sartor.ops.kronecker import phm_weight

NAME = "sartor_compacter"
RULE_STD = 1e-4  # of the authors' code


@dataclass
class CompacterConfig(tuner.BottleneckConfig):
    """`terms` is n, the size of the rule; `rank` that of each term."""

    terms: int = 4
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = type_named(NAME)


class Phm(nn.Module):
    """x Σ_i A_i ⊗ (s_i t_i) + b. The rules are the tuner's, so they are held in a tuple: not as parts of this."""

    def __init__(self, rules: nn.ParameterDict, adapter: str, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        terms = rules[adapter].shape[0]
        self._rules, self._adapter = (rules,), adapter
        self.left = nn.Parameter(torch.empty(terms, inputs // terms, rank, dtype=torch.float32))
        self.right = nn.Parameter(torch.empty(terms, rank, outputs // terms, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32))
        for factors in (self.left, self.right):
            for factor in factors.unbind():
                nn.init.xavier_uniform_(factor, gain=2**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rule = self._rules[0][self._adapter]
        return F.linear(x, phm_weight(rule, self.left, self.right).t(), self.bias)


class CompacterTuner(tuner.WrappingTuner):
    """Keeps the rules, and does with them what PEFT does with the parts of layers only: delete, switch, freeze."""

    prefix = f"{NAME}_"
    uses_shared_state = True

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self.adapter_rule = nn.ParameterDict()

    def parts(self, config: CompacterConfig, adapter: str, width: int) -> Sequence[nn.Module]:
        if adapter not in self.adapter_rule:
            rule = RULE_STD * torch.randn(config.terms, config.terms, config.terms, dtype=torch.float32)
            self.adapter_rule[adapter] = nn.Parameter(rule)
        sizes = ((width, config.size), (config.size, width))
        return [Phm(self.adapter_rule, adapter, inputs, outputs, config.rank) for inputs, outputs in sizes]

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        del self.adapter_rule[adapter_name]

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        active = [] if inference_mode else self.active_adapters
        for name, rule in self.adapter_rule.items():
            rule.requires_grad_(name in active)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self.adapter_rule[name].requires_grad_(requires_grad)

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        for name, rule in self.adapter_rule.items():
            rule.requires_grad_(enabled and name in self.active_adapters)
