"""Matrix products by the fastest that this processor has: into memory that is there already, or with weights laid out.

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

STRIPE = 64  # columns of the widest tile: of what is laid out there are a multiple
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
        if not num_inner:
            out_MN.zero_()
            return
        whole = out_MN.shape[1] // native.LANES * native.LANES  # the rest goes to torch
        self._product(
            *(a_MK.data_ptr(), *a_MK.stride()),
            *(b_KN.data_ptr(), *b_KN.stride()),
            *(out_MN.data_ptr(), out_MN.stride(0)),
            *(num_rows, whole, num_inner),
        )
        if whole < out_MN.shape[1]:
            torch.mm(a_MK, b_KN[:, whole:], out=out_MN[:, whole:])


class LaidOut:
    """A weight that is laid out once, as the kernel reads it; its own memory is not kept."""

    def __init__(self, weight_NK: Tensor) -> None:
        library = native.load("product", "float32")
        assert library is not None
        self._product = native.function(library, "product_laid", "plpplllll")
        self.num_columns, self.num_inner = weight_NK.shape
        self._laid = weight_NK.new_empty(-(-self.num_columns // STRIPE) * STRIPE * self.num_inner)
        native.function(library, "lay", "pllpll")(
            *(weight_NK.data_ptr(), weight_NK.stride(1), weight_NK.stride(0), self._laid.data_ptr()),
            *(self.num_columns, self.num_inner),
        )

    def times(self, x_MK: Tensor) -> Tensor:
        """x Wᵀ of any number of rows."""
        out_MN = x_MK.new_empty(len(x_MK), self.num_columns)
        self._multiply(x_MK, out_MN, adding=False)
        return out_MN

    def add_to(self, out_MN: Tensor, x_MK: Tensor) -> None:
        """out += x Wᵀ, where the columns of a row of `out` lie next to each other."""
        self._multiply(x_MK, out_MN, adding=True)

    def _multiply(self, x_MK: Tensor, out_MN: Tensor, *, adding: bool) -> None:
        rows_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
        self._product(
            *(rows_MK.data_ptr(), rows_MK.stride(0), self._laid.data_ptr()),
            *(out_MN.data_ptr(), out_MN.stride(0)),
            *(len(x_MK), self.num_columns, self.num_inner, adding),
        )


def lay_out(weight_NK: Tensor) -> LaidOut | None:
    """A weight of a layer for many products; `None` where ours are not the fastest, or have no such tiles."""
    has_tiles = weight_NK.numel() > 0 and len(weight_NK) % native.LANES == 0
    return LaidOut(weight_NK) if has_tiles and _ours(weight_NK.dtype, weight_NK.device.type) else None


def multiply(a_MK: Tensor, b_KN: Tensor, out_MN: Tensor) -> Tensor:
    """out = a b, of matrices of one type. Each operand has a stride of 1, `out` along its rows; they may be views."""
    products(out_MN.dtype, out_MN.device.type, many=out_MN.shape[0] >= FEWEST_ROWS).multiply(a_MK, b_KN, out_MN)
    return out_MN


def multiply_few(a_KM: Tensor, b_KN: Tensor) -> Tensor:
    """aᵀ b of few M, such as low ranks.

    In fp32 MKL is 1.4 to 1.9 times as fast at the transpose of bᵀ a. In bf16 oneDNN would have to turn all of b for it.
    """
    tall = b_KN.dtype == torch.float32 and b_KN.device.type == "cpu"
    return (b_KN.t() @ a_KM).t() if tall else a_KM.t() @ b_KN


@cache
def products(dtype: torch.dtype, device: str = "cpu", *, many: bool = True) -> Products:
    """The fastest on a kind of device for a model's type, and many rows or few."""
    return Native() if many and _ours(dtype, device) else Plain()


def _ours(dtype: torch.dtype, device: str) -> bool:
    return device == "cpu" and dtype == torch.float32 and hardware.is_amd() and not native.refusal("product", "float32")
