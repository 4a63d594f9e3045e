"""What stands between the products of a block, on a GPU: Triton's kernels behind the interface of `ops/pointwise.py`.

The twin, and what each of them computes: `Plain` there. Any width will do. The stream is fp32.
"""

from __future__ import annotations

from typing import Any

from triton import next_power_of_2

from sartor.ops.gpu import kernels
from sartor.ops.pointwise import Activation, Tensor

BLOCK = 1024  # columns of a row that one program takes, where it need not see all of them
LOSS = {"BLOCK": 4096, "num_warps": 8}
WIDE = 2048  # columns from which a program is given more threads


class Triton:
    """See `Pointwise`."""

    def rms_norm(self, stream_TD: Tensor, scale_D: Tensor, epsilon: float, out_TD: Tensor, inverse_T: Tensor) -> None:
        num_rows, width = stream_TD.shape
        kernels.rms_norm[num_rows,](
            stream_TD, scale_D, epsilon, out_TD, out_TD.stride(0), inverse_T, width, **_whole_row(width)
        )

    def rms_norm_backward(
        self,
        upstream_TD: Tensor,
        stream_TD: Tensor,
        scale_D: Tensor,
        inverse_T: Tensor,
        passed_TD: Tensor,
        gradient_TD: Tensor,
    ) -> None:
        num_rows, width = stream_TD.shape
        given = (upstream_TD, upstream_TD.stride(0), stream_TD, scale_D, inverse_T, passed_TD, gradient_TD, width)
        kernels.rms_norm_backward[num_rows,](*given, **_whole_row(width))

    def add(self, stream_TD: Tensor, update_TD: Tensor, out_TD: Tensor) -> None:
        num_rows, width = stream_TD.shape
        kernels.add[_blocks(num_rows, width)](stream_TD, update_TD, update_TD.stride(0), out_TD, width, BLOCK=BLOCK)

    def rotate(self, heads_TC: Tensor, head_size: int, cosine_TR: Tensor, sine_TR: Tensor, sign: float) -> None:
        num_rows, width = heads_TC.shape
        num_pairs = cosine_TR.shape[1]
        num_turned = width // head_size * num_pairs
        given = (heads_TC, heads_TC.stride(0), head_size, num_turned, cosine_TR, sine_TR, num_pairs, sign)
        kernels.rotate[_blocks(num_rows, num_turned)](*given, BLOCK=BLOCK)

    def head_norm(
        self, from_TC: Tensor, to_TC: Tensor, head_size: int, scale: Tensor, epsilon: float, inverse: Tensor
    ) -> None:
        given = (from_TC, from_TC.stride(0), to_TC, to_TC.stride(0), head_size, scale, epsilon, inverse)
        kernels.head_norm[len(from_TC), from_TC.shape[1] // head_size](*given, **_whole_row(head_size))

    def head_norm_backward(
        self, gradient_TC: Tensor, from_TC: Tensor, head_size: int, scale: Tensor, inverse: Tensor
    ) -> None:
        given = (gradient_TC, gradient_TC.stride(0), from_TC, from_TC.stride(0), head_size, scale, inverse)
        kernels.head_norm_backward[len(from_TC), from_TC.shape[1] // head_size](*given, **_whole_row(head_size))

    def gated(self, kind: Activation, both_T2F: Tensor, out_TF: Tensor) -> None:
        num_rows, width = out_TF.shape
        kernels.gated[_blocks(num_rows, width)](both_T2F, out_TF, out_TF.stride(0), width, KIND=kind, BLOCK=BLOCK)

    def gated_backward(self, kind: Activation, upstream_TF: Tensor, both_T2F: Tensor, product_TF: Tensor) -> None:
        num_rows, width = product_TF.shape
        given = (upstream_TF, upstream_TF.stride(0), both_T2F, product_TF, product_TF.stride(0), width)
        kernels.gated_backward[_blocks(num_rows, width)](*given, KIND=kind, BLOCK=BLOCK)

    def loss_tile(self, logits_NV: Tensor, targets_N: Tensor, logprobs_N: Tensor) -> None:
        num_rows, vocabulary = logits_NV.shape
        kernels.loss_tile[num_rows,](logits_NV, targets_N, logprobs_N, VOCABULARY=vocabulary, **LOSS)


def _blocks(num_rows: int, width: int) -> tuple[int, int]:
    return num_rows, -(-width // BLOCK)


def _whole_row(width: int) -> dict[str, Any]:
    """Options of a program that sees a row whole."""
    block = next_power_of_2(width)
    return {"BLOCK": block, "num_warps": 8 if block > WIDE else 4}
