"""Products with weights, and what one adapter makes of those of linear layers that read the same input.

An adapter's low ranks are small products of its own tokens alone, added to one product of all tokens with the base's
weights: tokens of other adapters cost nothing. In bf16 the small ones come first and the large one is added to them
before it is rounded: two roundings of the sum would lose what is small in it (docs/why/numerics.md).

Shapes: T tokens · K inputs · N outputs of all the layers · R ranks of all the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from sartor.adapters.changes import Change, LowRank, Scale, Weight
from sartor.errors import ModelError
from sartor.generate.batch.after import After, after_of
from sartor.ops.native import LANES
from sartor.ops.product import LaidOut, lay_out

TYPICAL_ROWS = 64  # what oneDNN lays weights out for; other sizes are right too


class Product(Protocol):
    """y = x Wᵀ + b."""

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor: ...

    def plus(self, x_TK: torch.Tensor, other_TN: torch.Tensor) -> torch.Tensor:
        """The same and another summand, rounded once."""
        ...


class Low(Protocol):
    """x Aᵀ Bᵀ, added to what is there."""

    def add_to(self, made_TN: torch.Tensor, x_TK: torch.Tensor) -> None: ...


class Torch:
    """By torch, with the weight as it is."""

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self._weight_NK, self._bias_N = weight_NK.contiguous(), bias_N

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor:
        return F.linear(x_TK, self._weight_NK, self._bias_N)

    def plus(self, x_TK: torch.Tensor, other_TN: torch.Tensor) -> torch.Tensor:
        return torch.addmm(other_TN if self._bias_N is None else other_TN + self._bias_N, x_TK, self._weight_NK.t())


class OneDnn:
    """By oneDNN, with the weight laid out for it."""

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous(), TYPICAL_ROWS)
        self._bias_N = bias_N

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor:
        y_TN: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_TK, self._weight, self._bias_N, "none", [], "")
        return y_TN

    def plus(self, x_TK: torch.Tensor, other_TN: torch.Tensor) -> torch.Tensor:
        sum_TN: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_TK, other_TN, self._weight, self._bias_N, "add"
        )
        return sum_TN


class Ours:
    """By our own kernel, with the weight laid out for it. It is of fp32, where small summands are not lost."""

    def __init__(self, laid: LaidOut, bias_N: torch.Tensor | None) -> None:
        self._laid, self._bias_N = laid, bias_N

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor:
        y_MN = self._laid.times(x_TK.flatten(0, -2))
        return (y_MN if self._bias_N is None else y_MN.add_(self._bias_N)).view(*x_TK.shape[:-1], y_MN.shape[1])

    def plus(self, x_TK: torch.Tensor, other_TN: torch.Tensor) -> torch.Tensor:
        return self(x_TK).add_(other_TN)


def product_of(weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> Product:
    """The fastest product with a weight that stays as it is, on this processor and for its type."""
    laid = lay_out(weight_NK)
    if laid is not None:
        return Ours(laid, bias_N)
    packs = weight_NK.device.type == "cpu" and _packs(weight_NK.dtype)
    return (OneDnn if packs else Torch)(weight_NK, bias_N)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and multiplies these numbers: fp32, and bf16 from AVX-512 on."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Own:
    """What one adapter makes of linear layers that read the same input and give their outputs side by side."""

    def __init__(self, layers: Mapping[str, nn.Linear], changes: Mapping[str, Sequence[Change]]) -> None:
        for name, layer in layers.items():
            _require_shapes(name, layer, changes.get(name, ()))
        self.product = _own_product(layers, changes)
        self.input_K: torch.Tensor | None = None
        self.after: list[tuple[slice, After]] = []
        dtype = next(iter(layers.values())).weight.dtype
        low: list[tuple[slice, LowRank]] = []
        num_outputs = 0
        for name, layer in layers.items():
            columns = slice(num_outputs, num_outputs + layer.out_features)
            for change in changes.get(name, ()):
                if isinstance(change, LowRank):
                    low.append((columns, change))
                    continue
                if isinstance(change, Scale) and change.input_K is not None:
                    self.input_K = change.input_K.detach().to(dtype)
                self.after += [(columns, step) for step in after_of(change, dtype)]
            num_outputs = columns.stop
        self._low = _low_ranks(low, num_outputs, dtype) if low else None

    @property
    def has_low_ranks(self) -> bool:
        return self._low is not None

    def add_low_ranks(self, x_TK: torch.Tensor, made_TN: torch.Tensor) -> None:
        """Add up (down x) of every layer to what is there."""
        if self._low is not None:
            self._low.add_to(made_TN, x_TK)


class TorchLow:
    """By torch. Zeros beside the diagonal cost less than more calls."""

    def __init__(self, down_RK: torch.Tensor, up_NR: torch.Tensor) -> None:
        self._down_KR, self._up_RN = down_RK.t(), up_NR.t().contiguous()

    def add_to(self, made_TN: torch.Tensor, x_TK: torch.Tensor) -> None:
        made_TN.addmm_(torch.mm(x_TK, self._down_KR), self._up_RN)


class OurLow:
    """By our own kernel, both laid out for it."""

    def __init__(self, down: LaidOut, up: LaidOut) -> None:
        self._down, self._up = down, up

    def add_to(self, made_TN: torch.Tensor, x_TK: torch.Tensor) -> None:
        self._up.add_to(made_TN, self._down.times(x_TK))


def _low_ranks(low: Sequence[tuple[slice, LowRank]], num_outputs: int, dtype: torch.dtype) -> Low:
    """The downs side by side, and the ups on a diagonal, each in its layer's columns: two products for all layers."""
    down_RK = torch.cat([change.down_RK.detach().to(dtype) for _, change in low])
    up_NR = down_RK.new_zeros(num_outputs, len(down_RK))
    rank = 0
    for columns, change in low:
        up_NR[columns, rank : rank + change.up_NR.shape[1]] = change.up_NR.detach()
        rank += change.up_NR.shape[1]
    more = -len(down_RK) % LANES  # ranks of zeros, so that there are as many as the kernel takes
    down, up = lay_out(F.pad(down_RK, (0, 0, 0, more))), lay_out(F.pad(up_NR, (0, more)))
    return TorchLow(down_RK, up_NR) if down is None or up is None else OurLow(down, up)


def scales_input(changes: Sequence[Change]) -> bool:
    """Whether a layer with these changes reads something of its own: then it is no part of a group."""
    return any(isinstance(change, Scale) and change.input_K is not None for change in changes)


def _own_product(layers: Mapping[str, nn.Linear], changes: Mapping[str, Sequence[Change]]) -> Product | None:
    """The product with other weights, if some of the layers have others; those that do not, keep the base's in it."""
    others = {name: change for name in layers for change in changes.get(name, ()) if isinstance(change, Weight)}
    if not others:
        return None
    weights, biases = [], []
    for name, layer in layers.items():
        other = others.get(name, Weight(layer.weight))
        weights.append(other.weight.detach().to(layer.weight.dtype))
        biases.append(layer.bias if other.bias_N is None else other.bias_N)
    if all(bias_N is None for bias_N in biases):
        return product_of(torch.cat(weights), None)
    full = [
        weight.new_zeros(len(weight)) if bias_N is None else bias_N.detach().to(weight.dtype)
        for weight, bias_N in zip(weights, biases, strict=True)
    ]
    return product_of(torch.cat(weights), torch.cat(full))


def _require_shapes(name: str, layer: nn.Linear, changes: Sequence[Change]) -> None:
    """Refuse what was made for a layer of another size.

    Raises:
        ModelError: naming the layer.
    """
    for change in changes:
        size: tuple[int, ...] = ()
        if isinstance(change, LowRank):
            size = (len(change.up_NR), change.down_RK.shape[1])
        if isinstance(change, Weight):
            size = tuple(change.weight.shape)
        if size and size != tuple(layer.weight.shape):
            raise ModelError(
                f"an adapter changes {name} as a layer of {size[1]} inputs and {size[0]} outputs, and this model's has "
                f"{layer.in_features} and {layer.out_features}",
                hint="the adapter belongs to another base model",
            )
