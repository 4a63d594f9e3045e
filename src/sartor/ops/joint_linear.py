"""Linear layers that read the same input, as one matrix product, with their LoRA updates inside it.

    [x, x Aᵀ] · [W, s B]ᵀ        W of q, k, v one below the other; A likewise; s B on the diagonal

As in `ops/lora_linear.py`, whose reason holds here too: masters are fp32 parameters, and the working copies in the
model's type are refreshed once per optimizer step. Where the base itself is trained, W is the working copy of fp32
masters. Where it is quantised, [W, s B] is made anew for each product, in one buffer that all layers share.

Shapes: T tokens · K inputs · N outputs of all members · R ranks of all members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sartor.errors import Unsupported
from sartor.ops.lora_linear import AugmentedLoraLinear
from sartor.ops.product import multiply, multiply_few
from sartor.ops.quantised_linear import QuantisedLinear, device_of, side_by_side

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Member:
    """One layer: its own rows of the outputs, and its own low ranks (none without an adapter)."""

    base: nn.Linear
    outputs: slice
    low: slice
    down: nn.Parameter | None = None
    up: nn.Parameter | None = None
    scaling: float = 1.0

    @property
    def weight(self) -> Tensor | None:
        """That of the base, if it is trained."""
        if isinstance(self.base, QuantisedLinear) or not self.base.weight.requires_grad:
            return None
        return self.base.weight

    @property
    def masters(self) -> list[Tensor]:
        """Trained parameters, in the order of their gradients."""
        of_base = [self.weight, self.base.bias]
        adapter = [self.down, self.up]
        return [item for item in (*of_base, *adapter) if item is not None and item.requires_grad]


class JointLinear:
    """The members' weights are laid out anew and become views of that, so nothing is held twice.

    Raises:
        Unsupported: a layer is not known, or some are quantised and some are not.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype, adapter: str = "default") -> None:
        self._members = _members(layers, adapter)
        first, last = self._members[0].base, self._members[-1]
        self.num_inputs = first.in_features
        self.num_outputs: int = last.outputs.stop
        # An even number: kernels read rows of bf16 by 32-bit words. The column more is of zeros.
        self.num_low: int = last.low.stop + last.low.stop % 2
        self._quantised = [member.base for member in self._members if isinstance(member.base, QuantisedLinear)]
        if len(self._quantised) not in (0, len(self._members)):
            raise Unsupported("layers of which only some are quantised", hint="it takes the plain path")
        num_held = 0 if self._quantised else self.num_inputs
        device = device_of(first)
        self._held_NHR = torch.zeros(self.num_outputs, num_held + self.num_low, dtype=dtype, device=device)
        self._up_NR = self._held_NHR[:, num_held:]
        self._down_RK = self._held_NHR.new_zeros(self.num_low, self.num_inputs)
        biases = [member.base.bias for member in self._members]
        self._bias_N = None if all(bias is None for bias in biases) else self._held_NHR.new_zeros(self.num_outputs)
        for member in self._members:
            if not self._quantised:
                weight_NK = self._held_NHR[member.outputs, :num_held]
                weight_NK.copy_(member.base.weight.detach())
                if member.base.weight.dtype == dtype:
                    member.base.weight = nn.Parameter(weight_NK, requires_grad=member.base.weight.requires_grad)
            if self._bias_N is not None and member.base.bias is not None:
                self._bias_N[member.outputs].copy_(member.base.bias.detach())
        self.masters = [master for member in self._members for master in member.masters]
        self.refresh()

    @property
    def width(self) -> int:
        """Columns of an input row: the inputs, and room for what the adapters make of them."""
        return self.num_inputs + self.num_low

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters into the working copies."""
        for member in self._members:
            if member.weight is not None and member.weight.dtype != self._held_NHR.dtype:
                self._held_NHR[member.outputs, : self.num_inputs].copy_(member.weight)
            if self._bias_N is not None and member.base.bias is not None and member.base.bias.requires_grad:
                self._bias_N[member.outputs].copy_(member.base.bias)
            if member.down is not None and member.up is not None:
                self._down_RK[member.low].copy_(member.down)
                self._up_NR[member.outputs, member.low].copy_(member.up * member.scaling)

    @property
    def _joint_NKR(self) -> Tensor:
        """[W, s B], to be read at once: a quantised one lasts until another layer's is made."""
        return side_by_side(self._quantised, self._up_NR) if self._quantised else self._held_NHR

    def lower(self, x_TKR: Tensor) -> None:
        """Fill the last R columns: x Aᵀ."""
        if self.num_low:
            multiply(x_TKR[:, : self.num_inputs], self._down_RK.t(), x_TKR[:, self.num_inputs :])

    def keep_low(self, x_TKR: Tensor, low_TR: Tensor) -> Tensor:
        """A copy of what `lower` filled in, for the backward."""
        return low_TR.copy_(x_TKR[:, self.num_inputs :])

    def put_low(self, x_TKR: Tensor, low_TR: Tensor) -> None:
        """The mirror of `keep_low`."""
        x_TKR[:, self.num_inputs :].copy_(low_TR)

    def product(self, x_TKR: Tensor, out_TN: Tensor) -> None:
        """out = layers(x), for x in the first K columns; the others are filled on the way."""
        self.lower(x_TKR)
        multiply(x_TKR, self._joint_NKR.t(), out_TN)
        if self._bias_N is not None:
            out_TN += self._bias_N

    def back(self, dy_TN: Tensor, x_TKR: Tensor, dx_TKR: Tensor, *, of_input: bool = True) -> list[Tensor]:
        """Gradients of the masters, fp32 and in their order. The first K columns of `dx` become the input's."""
        if of_input:
            self.back_input(dy_TN, dx_TKR)
        elif self.num_low:
            multiply(dy_TN, self._up_NR, dx_TKR[:, self.num_inputs :])
        return self.back_masters(dy_TN, x_TKR, dx_TKR[:, self.num_inputs :])

    def back_input(self, dy_TN: Tensor, dx_TKR: Tensor) -> None:
        """The gradient of the input, in the first K columns, and of its low ranks, in the others."""
        multiply(dy_TN, self._joint_NKR, dx_TKR)
        if self.num_low:
            dx_TKR[:, : self.num_inputs].addmm_(dx_TKR[:, self.num_inputs :], self._down_RK)

    def back_masters(self, dy_TN: Tensor, x_TKR: Tensor, dlow_TR: Tensor) -> list[Tensor]:
        """Gradients of the masters from those of the outputs and of the low ranks."""
        x_TK, low_TR = x_TKR[:, : self.num_inputs], x_TKR[:, self.num_inputs :]
        none = dy_TN[:0]
        of_down_RK = multiply_few(dlow_TR, x_TK) if self.num_low else none
        trains_base = any(member.weight is not None for member in self._members)
        of_weight_NK = (
            multiply(dy_TN.t(), x_TK, dy_TN.new_empty(dy_TN.shape[1], self.num_inputs)) if trains_base else none
        )
        return [
            gradient.to(master.dtype)
            for member in self._members
            for master, gradient in _gradients(member, dy_TN, of_weight_NK, of_down_RK, low_TR)
        ]


def _gradients(
    member: Member, dy_TN: Tensor, of_weight_NK: Tensor, of_down_RK: Tensor, low_TR: Tensor
) -> list[tuple[Tensor, Tensor]]:
    base = member.base
    found: list[tuple[Tensor, Tensor]] = []
    if member.weight is not None:
        found.append((member.weight, of_weight_NK[member.outputs]))
    if base.bias is not None and base.bias.requires_grad:
        found.append((base.bias, dy_TN[:, member.outputs].sum(dim=0, dtype=base.bias.dtype)))
    if member.down is not None and member.down.requires_grad:
        found.append((member.down, of_down_RK[member.low]))
    if member.up is not None and member.up.requires_grad:
        of_up_NR = dy_TN[:, member.outputs].t() @ low_TR[:, member.low]
        found.append((member.up, of_up_NR.to(member.up.dtype) * member.scaling))
    return found


def _members(layers: Sequence[nn.Module], adapter: str) -> list[Member]:
    members: list[Member] = []
    for layer in layers:
        start = members[-1].outputs.stop if members else 0
        low = members[-1].low.stop if members else 0
        if isinstance(layer, AugmentedLoraLinear):
            if layer.beyond(adapter):
                raise Unsupported(f"a LoRA layer with {layer.beyond(adapter)}", hint="it takes the plain path")
            down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            base, scaling, rank = layer.base_layer, float(layer.scaling[adapter]), down.shape[0]
            ranks = slice(low, low + rank)
            members.append(Member(base, slice(start, start + base.out_features), ranks, down, up, scaling))
        elif isinstance(layer, QuantisedLinear) or type(layer) is nn.Linear:
            members.append(Member(layer, slice(start, start + layer.out_features), slice(low, low)))
        else:
            kind = f"{type(layer).__module__}.{type(layer).__name__}"
            raise Unsupported(f"a layer of type {kind}", hint="it takes the plain path")
    return members
