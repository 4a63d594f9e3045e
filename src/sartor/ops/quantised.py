"""Weights in four or eight bits: how numbers are packed in blocks, and how rows of them are made again.

A block of 64 neighbours in a row shares one scale. In four bits each number is the nearest of 16, times the block's
largest absolute value: NF4 takes the 16 from the quantiles of a normal distribution (Dettmers et al. 2023, "QLoRA",
eq. 4 and appendix E), FP4 has a sign, two bits of exponent and one of mantissa. The largest values are quantised once
more, to 8 bits in groups of 256 around their mean (section 3): 4 + 8/64 + 32/(64 · 256) = 4.127 bits a number. All of
that is laid out as bitsandbytes does, bit for bit, so that its kernels read it on a GPU. In eight bits a number is a
multiple of its block's step, which is a bf16: 8.25 bits, and no error beside the rounding to steps.

Shapes: N rows · K columns · R rows asked for · B blocks of a row · G groups of blocks.
"""

from __future__ import annotations

import ctypes
import importlib.util
from abc import abstractmethod
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from sartor.ops import native

Tensor = torch.Tensor
FourBits = Literal["nf4", "fp4"]
Kind = Literal["nf4", "fp4", "int8"]

BLOCK, GROUP = 64, 256
PIECE = 2**22  # numbers that are made at once without kernels: 16 MiB in fp32
MOST = 127  # steps of eight bits, on either side of zero
#: Numbers of the codebooks by their code, as fractions of the largest.
BOOKS: dict[FourBits, tuple[float, ...]] = {
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    "fp4": tuple(sign * value / 12.0 for sign in (1.0, -1.0) for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)),
}


class Packed(nn.Module):
    """A packed matrix. A module, so that it moves to a device with the layer that holds it.

    What it holds is no part of a checkpoint: it is made again from the base.
    """

    def __init__(self, weight_NK: Tensor, **tensors: Tensor) -> None:
        super().__init__()
        self.shape = (weight_NK.shape[0], weight_NK.shape[1])
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.contiguous(), persistent=False)

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    def whole(self, dtype: torch.dtype) -> Tensor:
        """All rows, in memory of their own."""
        return self.make(torch.empty(self.shape, dtype=dtype, device=self.device))

    def make(self, out_RK: Tensor, first: int = 0) -> Tensor:
        """Rows from `first` on, as many as `out` has; its columns may be the first of wider rows."""
        kernels = _kernels(out_RK.dtype) if out_RK.device.type == "cpu" else None
        if kernels is None:
            return self._make_plain(out_RK, first)
        self._fill(kernels, out_RK, 0, first)
        return out_RK

    def _make_plain(self, out_RK: Tensor, first: int) -> Tensor:
        """By `plain`, which takes fp32 copies, a few rows at a time."""
        step = max(1, PIECE // out_RK.shape[1])
        for start in range(0, len(out_RK), step):
            piece_RK = out_RK[start : start + step]
            piece_RK.copy_(self.plain(slice(first + start, first + start + len(piece_RK))))
        return out_RK

    def pick(self, rows_R: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows with these numbers, of any integer type.

        Raises:
            IndexError: there is no such row.
        """
        rows_R = rows_R.long().contiguous()  # the kernels read them so
        kernels = _kernels(dtype) if rows_R.device.type == "cpu" else None
        if kernels is None:
            return self.plain(rows_R).to(dtype)
        native.refuse_outside(rows_R, self.shape[0])
        out_RK = torch.empty(len(rows_R), self.shape[1], dtype=dtype)
        self._fill(kernels, out_RK, rows_R.data_ptr(), 0)
        return out_RK

    @abstractmethod
    def plain(self, rows: slice | Tensor) -> Tensor:
        """Rows in fp32, by torch: the twin of the kernels."""

    @abstractmethod
    def _fill(self, kernels: _Kernels, out_RK: Tensor, rows: int, first: int) -> None:
        """The same by the kernels, into `out`; `rows` is where the numbers of the rows stand, 0 for those from `first`
        on."""


class PackedFour(Packed):
    """`scales` and `groups` hold the largest value of each block, quantised in its turn."""

    codes_NP: Tensor  # two columns a byte, the first in its upper half
    scales_NB: Tensor
    groups_G: Tensor
    offset: Tensor

    def __init__(self, weight_NK: Tensor, kind: FourBits) -> None:
        blocks_NBL = _blocks(weight_NK)
        largest_NB = blocks_NBL.abs().amax(dim=2)
        codes_NK = _nearest(_fractions(blocks_NBL, largest_NB), _book(kind, weight_NK.device)).flatten(1)
        codes_NK = codes_NK[:, : weight_NK.shape[1] + weight_NK.shape[1] % 2]
        offset = largest_NB.mean()
        groups_GL = F.pad((largest_NB - offset).flatten(), (0, -largest_NB.numel() % GROUP)).view(-1, GROUP)
        groups_G = groups_GL.abs().amax(dim=1)
        scales = _nearest(_fractions(groups_GL, groups_G), _scale_book(weight_NK.device)).flatten()
        super().__init__(
            weight_NK,
            codes_NP=codes_NK[:, ::2] << 4 | codes_NK[:, 1::2],
            scales_NB=scales[: largest_NB.numel()].view(largest_NB.shape),
            groups_G=groups_G,
            offset=offset,
        )
        self.kind: FourBits = kind

    @property
    def largest_NB(self) -> Tensor:
        """The largest absolute value of each block, as its eight bits say."""
        by_block = self.groups_G.repeat_interleave(GROUP)[: self.scales_NB.numel()].view(self.scales_NB.shape)
        return _scale_book(self.device)[self.scales_NB.int()] * by_block + self.offset

    def make(self, out_RK: Tensor, first: int = 0) -> Tensor:
        is_whole = len(out_RK) == self.shape[0] and self.shape[1] % BLOCK == 0
        if self.device.type == "cuda" and is_whole and _has_bitsandbytes():
            return out_RK.copy_(self.by_bitsandbytes(out_RK.dtype))
        return super().make(out_RK, first)

    def plain(self, rows: slice | Tensor) -> Tensor:
        pairs_RP2 = torch.stack((self.codes_NP[rows] >> 4, self.codes_NP[rows] & 15), dim=2)
        numbers_RK = _book(self.kind, self.device)[pairs_RP2.flatten(1)[:, : self.shape[1]].int()]
        return numbers_RK * _spread(self.largest_NB[rows], self.shape[1])

    def by_bitsandbytes(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix by the kernel of bitsandbytes, for a GPU; on a CPU it gives the same numbers.

        Loaded here alone: when it is imported on a CPU, it looks for kernels on a hub.
        """
        importlib.import_module("bitsandbytes")
        made: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            self.codes_NP.view(-1, 1), self.largest_NB.flatten(), BLOCK, self.kind, self.shape, dtype
        )
        return made

    def _fill(self, kernels: _Kernels, out_RK: Tensor, rows: int, first: int) -> None:
        kernels.four_bits(
            self.codes_NP.data_ptr(),
            self.scales_NB.data_ptr(),
            self.groups_G.data_ptr(),
            _scale_book(self.device).data_ptr(),
            float(self.offset),
            _book(self.kind, self.device).data_ptr(),
            rows,
            first,
            out_RK.data_ptr(),
            out_RK.stride(0),
            *out_RK.shape,
        )


class PackedEight(Packed):
    """Multiples of the step of each block."""

    codes_NK: Tensor
    steps_NB: Tensor

    def __init__(self, weight_NK: Tensor) -> None:
        blocks_NBL = _blocks(weight_NK)
        steps_NB = (blocks_NBL.abs().amax(dim=2) / MOST).bfloat16()
        codes_NBL = (blocks_NBL / steps_NB.float().clamp(min=_LEAST)[..., None]).round_().clamp_(-MOST, MOST)
        codes_NK = codes_NBL.flatten(1)[:, : weight_NK.shape[1]].to(torch.int8)
        super().__init__(weight_NK, codes_NK=codes_NK, steps_NB=steps_NB)

    def plain(self, rows: slice | Tensor) -> Tensor:
        return self.codes_NK[rows].float() * _spread(self.steps_NB[rows].float(), self.shape[1])

    def _fill(self, kernels: _Kernels, out_RK: Tensor, rows: int, first: int) -> None:
        kernels.eight_bits(
            self.codes_NK.data_ptr(),
            self.steps_NB.data_ptr(),
            rows,
            first,
            out_RK.data_ptr(),
            out_RK.stride(0),
            *out_RK.shape,
        )


def pack(weight_NK: Tensor, kind: Kind) -> Packed:
    """A matrix in four or eight bits."""
    weight_NK = weight_NK.detach()
    return PackedEight(weight_NK) if kind == "int8" else PackedFour(weight_NK, kind)


_LEAST = 1e-38  # instead of a largest value of 0, by which nothing can be divided


def _blocks(weight_NK: Tensor) -> Tensor:
    """fp32, (N, B, 64): the last block of a row is filled up with zeros."""
    padded_NK = F.pad(weight_NK.float(), (0, -weight_NK.shape[1] % BLOCK))
    return padded_NK.view(weight_NK.shape[0], -1, BLOCK)


def _fractions(blocks: Tensor, largest: Tensor) -> Tensor:
    """Each number as a fraction of its block's largest. Times the inverse, as bitsandbytes has it: bits may differ."""
    return (blocks * (1.0 / largest.clamp(min=_LEAST))[..., None]).clamp_(-1, 1)


def _nearest(fractions: Tensor, book: Tensor) -> Tensor:
    """The code of the nearest number of a codebook, uint8."""
    order = book.argsort(stable=True)
    ordered = book[order]
    places = places_of(fractions, (ordered[1:] + ordered[:-1]) / 2)
    return places if torch.equal(ordered, book) else order.to(torch.uint8)[places.int()]


def places_of(values: Tensor, edges: Tensor) -> Tensor:
    """How many of the edges lie below each value, uint8."""
    kernels = _kernels(torch.float32) if values.device.type == "cpu" and len(edges) == len(BOOKS["nf4"]) - 1 else None
    if kernels is None:
        return torch.bucketize(values, edges).to(torch.uint8)
    values, places = values.contiguous(), torch.empty(values.shape, dtype=torch.uint8)
    kernels.places_of(values.data_ptr(), edges.data_ptr(), places.data_ptr(), values.numel())
    return places


def _spread(scales_RB: Tensor, num_columns: int) -> Tensor:
    """The scale of each column."""
    return scales_RB.repeat_interleave(BLOCK, dim=1)[:, :num_columns]


@cache
def _has_bitsandbytes() -> bool:
    """Looked for once: each product of a GPU asks."""
    return importlib.util.find_spec("bitsandbytes") is not None


@cache
def _book(kind: FourBits, device: torch.device) -> Tensor:
    return torch.tensor(BOOKS[kind], device=device)


@cache
def _scale_book(device: torch.device) -> Tensor:
    """256 numbers for the scales: seven decades, each of twice as many steps (Dettmers 2015, arXiv 1511.04561)."""
    decades = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        decades.append(10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2.0))
    above = torch.cat(decades)
    return torch.cat((above, -above, torch.tensor([0.0, 1.0]))).sort().values.to(device)


class _Kernels:
    """The C++ kernels, for an element type."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.four_bits = native.function(library, "four_bits", "ppppfpplplll")
        self.eight_bits = native.function(library, "eight_bits", "ppplplll")
        self.places_of = native.function(library, "places_of", "pppl")


@cache
def _kernels(dtype: torch.dtype) -> _Kernels | None:
    library = native.load_for("quantised", dtype)
    return None if library is None else _Kernels(library)
