"""Modules that give on a CPU what a model's own give, by one call of a kernel: norms, and gated feed-forward layers.

Whether one gives the same is tried on numbers, as families differ in small things (Gemma's norms scale by 1 + weight).

Shapes: T tokens · D width of the input · F inner width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sartor.generate.batch.joint import Part
from sartor.ops.pointwise import Activation, Native, activation_of, pointwise, wide

#: Share by which what two modules give may differ: they sum and round in another order.
APART = {torch.float32: 1e-5, torch.bfloat16: 0.02}


class Norm(nn.Module):
    """RMSNorm of numbers of a type, rounded once: `scale_D` may be of a wider one (Gemma's 1 + weight)."""

    def __init__(self, scale_D: torch.Tensor, dtype: torch.dtype, epsilon: float) -> None:
        super().__init__()
        self._scale_D, self._dtype, self._epsilon = scale_D.to(wide(dtype)), dtype, epsilon
        self._exact_D = scale_D.to(dtype) if torch.equal(scale_D.to(dtype).to(scale_D.dtype), scale_D) else None
        kernel = pointwise(dtype, len(scale_D), device=scale_D.device.type)
        self._kernel = kernel if isinstance(kernel, Native) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = len(self._scale_D)
        if self._kernel is None or x.dtype != self._dtype:
            if self._exact_D is not None and x.dtype == self._dtype:
                return F.rms_norm(x, (width,), self._exact_D, self._epsilon)
            return F.rms_norm(x.to(self._scale_D.dtype), (width,), self._scale_D, self._epsilon).to(x.dtype)
        x_TD = x.reshape(-1, width)
        made_TD, inverse_T = torch.empty_like(x_TD), torch.empty(len(x_TD))
        self._kernel.head_norm(x_TD, made_TD, width, self._scale_D, self._epsilon, inverse_T)
        return made_TD.view(x.shape)


class Gated(nn.Module):
    """A feed-forward layer down(activation(gate(x)) · up(x)) whose gate and up are one product. It has the parts of the
    module it stands for, by their names."""

    def __init__(self, plain: nn.Module, gate: Part, down: Part, kernel: Native, activation: Activation) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self._together, self._down, self._kernel, self._activation = gate.together, (down,), kernel, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both_T2F = self._together.whole(x).flatten(0, -2)
        made_TF = both_T2F.new_empty(len(both_T2F), both_T2F.shape[1] // 2)
        self._kernel.gated(self._activation, both_T2F, made_TF)
        made: torch.Tensor = self._down[0](made_TF.view(*x.shape[:-1], -1))
        return made


def faster_norm(module: nn.Module) -> nn.Module:
    """A norm that gives what this module gives, if it is an RMSNorm of a kind we know; otherwise the module itself."""
    if not type(module).__name__.endswith("RMSNorm"):
        return module
    weights = [weight for name, weight in module.named_parameters() if name == "weight"]
    facts: dict[str, Any] = vars(module)
    epsilon = facts.get("variance_epsilon", facts.get("eps"))
    if not weights or not isinstance(epsilon, float):
        return module
    weight_D = weights[0].detach()
    for scale_D in (weight_D, 1.0 + weight_D.to(wide(weight_D.dtype))):
        norm = Norm(scale_D, weight_D.dtype, epsilon)
        if _agree(norm, module, weight_D):
            return norm
    return module


def faster_gate(module: nn.Module) -> nn.Module:
    """A feed-forward layer that gives what this module gives, if it is gated, its layers are joined already, and its
    activation is known; otherwise the module itself."""
    parts = dict(module.named_children())
    gate, down = parts.get("gate_up_proj", parts.get("gate_proj")), parts.get("down_proj")
    act = parts.get("act_fn", parts.get("activation_fn"))
    if not isinstance(gate, Part) or not isinstance(down, Part) or act is None:
        return module
    like_D, width = gate.together.like_K, len(down.together.like_K)
    kernel = pointwise(like_D.dtype, width, device=like_D.device.type)
    activation = activation_of(act)
    if not isinstance(kernel, Native) or activation is None or gate.together.num_outputs != 2 * width:
        return module
    made = Gated(module, gate, down, kernel, activation)
    return made if _agree(made, module, like_D) else module


def alike(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether what two modules gave is the same but for roundings."""
    same = found.shape == wanted.shape and found.dtype == wanted.dtype
    return same and bool((found.float() - wanted.float()).norm() <= APART[wanted.dtype] * wanted.float().norm())


def _agree(one: nn.Module, other: nn.Module, like_D: torch.Tensor) -> bool:
    """Whether two modules give the same for some rows of the width, type and place of `like_D`."""
    x = torch.randn(1, 4, len(like_D), generator=torch.Generator().manual_seed(0)).to(like_D)
    with torch.no_grad():
        return alike(one(x), other(x))
