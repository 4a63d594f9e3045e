"""Matrix products into memory that is there already, by the fastest that this processor has.

On x86 torch multiplies with MKL, which keeps its best kernels for Intel's processors. On AMD's ours are the faster ones
in fp32 (docs/why/engine.md); bf16 goes to oneDNN, which knows both. `Plain` is their twin.

Shapes: M rows · K inner · N columns.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch

from sartor import hardware
from sartor.ops import native

Tensor = torch.Tensor

LANES = 16  # of the widest vector: columns beyond a multiple of it go to torch
FEWEST_ROWS = 32  # from which ours are no slower


class Products(Protocol):
    def multiply(self, a_MK: Tensor, b_KN: Tensor, out_MN: Tensor) -> None:
        """out = a b. Each operand has a stride of 1, `out` along its rows; they may be views."""
        ...


class Plain:
    """See `Products`."""

    def multiply(self, a_MK: Tensor, b_KN: Tensor, out_MN: Tensor) -> None:
        torch.mm(a_MK, b_KN, out=out_MN)


class Native:
    """The C++ kernel (native/product.cpp)."""

    def __init__(self) -> None:
        library = native.load("product", "float32")
        assert library is not None
        self._product = native.function(library, "product", "pllpllpllll")

    def multiply(self, a_MK: Tensor, b_KN: Tensor, out_MN: Tensor) -> None:
        num_rows, num_inner = a_MK.shape
        whole = out_MN.shape[1] // LANES * LANES
        self._product(
            *(a_MK.data_ptr(), *a_MK.stride()),
            *(b_KN.data_ptr(), *b_KN.stride()),
            *(out_MN.data_ptr(), out_MN.stride(0)),
            *(num_rows, whole, num_inner),
        )
        if whole < out_MN.shape[1]:
            torch.mm(a_MK, b_KN[:, whole:], out=out_MN[:, whole:])


def multiply(a_MK: Tensor, b_KN: Tensor, out_MN: Tensor) -> Tensor:
    """out = a b, of matrices of one type. Each operand has a stride of 1, `out` along its rows; they may be views."""
    products(out_MN.dtype, out_MN.device.type, many=out_MN.shape[0] >= FEWEST_ROWS).multiply(a_MK, b_KN, out_MN)
    return out_MN


@cache
def products(dtype: torch.dtype, device: str = "cpu", *, many: bool = True) -> Products:
    """The fastest on a kind of device for a model's type, and many rows or few."""
    ours = many and device == "cpu" and dtype == torch.float32 and hardware.is_amd()
    return Native() if ours and not native.refusal("product", "float32") else Plain()
