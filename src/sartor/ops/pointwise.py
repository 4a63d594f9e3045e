"""What stands between the matrix products of a block: norms, rotation, gated activation, residual, loss of a tile.

`Native` calls the C++ kernels of a CPU, `gpu.pointwise.Triton` those of a GPU; `Plain` is their twin in torch, in any
float type, and says what they compute. The residual stream is `float32` (for a `float64` model `float64`); activations
have the model's type and may be columns of wider rows.

Shapes: T tokens · D width of the stream · F inner width · V vocabulary · rows of heads as (T, heads × head size).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F

from sartor.ops import gpu, native

Activation = Literal["silu", "gelu_tanh"]
Tensor = torch.Tensor


class Pointwise(Protocol):
    """Results go into tensors that the caller gives: nothing is allocated here."""

    def rms_norm(self, stream_TD: Tensor, scale_D: Tensor, epsilon: float, out_TD: Tensor, inverse_T: Tensor) -> None:
        """out = scale · stream / rms(stream); `inverse` = 1 / rms."""
        ...

    def rms_norm_backward(
        self,
        upstream_TD: Tensor,
        stream_TD: Tensor,
        scale_D: Tensor,
        inverse_T: Tensor,
        passed_TD: Tensor,
        gradient_TD: Tensor,
    ) -> None:
        """gradient = passed + the gradient of `rms_norm`; `passed` is what goes round the block."""
        ...

    def add(self, stream_TD: Tensor, update_TD: Tensor, out_TD: Tensor) -> None:
        """out = stream + update."""
        ...

    def rotate(self, heads_TC: Tensor, head_size: int, cosine_TR: Tensor, sine_TR: Tensor, sign: float) -> None:
        """Rotate the pairs (r, r + R) of every head in place; sign -1 turns back, which is the gradient."""
        ...

    def head_norm(
        self, from_TC: Tensor, to_TC: Tensor, head_size: int, scale: Tensor, epsilon: float, inverse: Tensor
    ) -> None:
        """RMS norm of each head on its own; `inverse` is (T, heads)."""
        ...

    def head_norm_backward(
        self, gradient_TC: Tensor, from_TC: Tensor, head_size: int, scale: Tensor, inverse: Tensor
    ) -> None:
        """In place: the gradient after `head_norm` becomes the gradient before it."""
        ...

    def gated(self, kind: Activation, both_T2F: Tensor, out_TF: Tensor) -> None:
        """out = activation(gate) · up, of rows that hold gate and then up."""
        ...

    def gated_backward(self, kind: Activation, upstream_TF: Tensor, both_T2F: Tensor, product_TF: Tensor) -> None:
        """In place: gate and up become their gradients. `product` gets activation(gate) · up once more."""
        ...

    def loss_tile(self, logits_NV: Tensor, targets_N: Tensor, logprobs_N: Tensor) -> None:
        """log p(target) goes out; in place, logits become its gradient: onehot - softmax."""
        ...


class Plain:
    """See `Pointwise`. One line of torch for each line of mathematics."""

    def rms_norm(self, stream_TD: Tensor, scale_D: Tensor, epsilon: float, out_TD: Tensor, inverse_T: Tensor) -> None:
        torch.rsqrt(stream_TD.square().mean(dim=1) + epsilon, out=inverse_T)
        out_TD.copy_(stream_TD * inverse_T[:, None] * scale_D)

    def rms_norm_backward(
        self,
        upstream_TD: Tensor,
        stream_TD: Tensor,
        scale_D: Tensor,
        inverse_T: Tensor,
        passed_TD: Tensor,
        gradient_TD: Tensor,
    ) -> None:
        scaled_TD = upstream_TD.to(stream_TD.dtype) * scale_D
        gradient_TD.copy_(passed_TD + _through_norm(scaled_TD, stream_TD, inverse_T[:, None]))

    def add(self, stream_TD: Tensor, update_TD: Tensor, out_TD: Tensor) -> None:
        torch.add(stream_TD, update_TD, out=out_TD)

    def rotate(self, heads_TC: Tensor, head_size: int, cosine_TR: Tensor, sine_TR: Tensor, sign: float) -> None:
        heads_THC = heads_TC.view(len(heads_TC), -1, head_size)
        num_pairs = cosine_TR.shape[1]
        low, high = heads_THC[..., :num_pairs], heads_THC[..., num_pairs : 2 * num_pairs]
        cosine, sine = cosine_TR[:, None], sine_TR[:, None] * sign
        turned = low * cosine - high * sine, high * cosine + low * sine
        low.copy_(turned[0])
        high.copy_(turned[1])

    def head_norm(
        self, from_TC: Tensor, to_TC: Tensor, head_size: int, scale: Tensor, epsilon: float, inverse: Tensor
    ) -> None:
        heads = from_TC.view(len(from_TC), -1, head_size).to(scale.dtype)
        torch.rsqrt(heads.square().mean(dim=2) + epsilon, out=inverse)
        to_TC.copy_((heads * inverse[..., None] * scale).flatten(1))

    def head_norm_backward(
        self, gradient_TC: Tensor, from_TC: Tensor, head_size: int, scale: Tensor, inverse: Tensor
    ) -> None:
        heads = from_TC.view(len(from_TC), -1, head_size).to(scale.dtype)
        scaled = gradient_TC.view(len(gradient_TC), -1, head_size).to(scale.dtype) * scale
        gradient_TC.copy_(_through_norm(scaled, heads, inverse[..., None]).flatten(1))

    def gated(self, kind: Activation, both_T2F: Tensor, out_TF: Tensor) -> None:
        gate, up = both_T2F.chunk(2, dim=1)
        out_TF.copy_(_activation(kind, gate) * up)

    def gated_backward(self, kind: Activation, upstream_TF: Tensor, both_T2F: Tensor, product_TF: Tensor) -> None:
        gate, up = both_T2F.chunk(2, dim=1)
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            value = _activation(kind, leaf)
            (of_gate,) = torch.autograd.grad(value, leaf, upstream_TF * up)
        value = value.detach()
        product_TF.copy_(value * up)
        up.copy_(upstream_TF * value)
        gate.copy_(of_gate)

    def loss_tile(self, logits_NV: Tensor, targets_N: Tensor, logprobs_N: Tensor) -> None:
        wide_NV = torch.log_softmax(logits_NV.to(logprobs_N.dtype), dim=1)
        logprobs_N.copy_(wide_NV.gather(1, targets_N[:, None])[:, 0])
        slope_NV = wide_NV.exp_().neg_()
        slope_NV.scatter_add_(1, targets_N[:, None], torch.ones_like(slope_NV[:, :1]))
        logits_NV.copy_(slope_NV)


class Native:
    """See `Pointwise`. Widths must be multiples of 16."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._rms_norm = native.function(library, "rms_norm", "ppfplpll")
        self._rms_norm_backward = native.function(library, "rms_norm_backward", "plpppppll")
        self._add = native.function(library, "add", "pplpll")
        self._rotate = native.function(library, "rotate", "plllpplfl")
        self._head_norm = native.function(library, "head_norm", "plplllpfpl")
        self._head_norm_backward = native.function(library, "head_norm_backward", "plplllppl")
        self._gated = {kind: native.function(library, kind, "pplll") for kind in ("silu", "gelu_tanh")}
        self._gated_backward = {
            kind: native.function(library, f"{kind}_backward", "plpplll") for kind in ("silu", "gelu_tanh")
        }
        self._loss_tile = native.function(library, "loss_tile", "pppll")

    def rms_norm(self, stream_TD: Tensor, scale_D: Tensor, epsilon: float, out_TD: Tensor, inverse_T: Tensor) -> None:
        self._rms_norm(
            stream_TD.data_ptr(),
            scale_D.data_ptr(),
            epsilon,
            out_TD.data_ptr(),
            out_TD.stride(0),
            inverse_T.data_ptr(),
            *stream_TD.shape,
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
        self._rms_norm_backward(
            upstream_TD.data_ptr(),
            upstream_TD.stride(0),
            stream_TD.data_ptr(),
            scale_D.data_ptr(),
            inverse_T.data_ptr(),
            passed_TD.data_ptr(),
            gradient_TD.data_ptr(),
            *stream_TD.shape,
        )

    def add(self, stream_TD: Tensor, update_TD: Tensor, out_TD: Tensor) -> None:
        self._add(stream_TD.data_ptr(), update_TD.data_ptr(), update_TD.stride(0), out_TD.data_ptr(), *stream_TD.shape)

    def rotate(self, heads_TC: Tensor, head_size: int, cosine_TR: Tensor, sine_TR: Tensor, sign: float) -> None:
        self._rotate(
            heads_TC.data_ptr(),
            heads_TC.stride(0),
            heads_TC.shape[1] // head_size,
            head_size,
            cosine_TR.data_ptr(),
            sine_TR.data_ptr(),
            cosine_TR.shape[1],
            sign,
            heads_TC.shape[0],
        )

    def head_norm(
        self, from_TC: Tensor, to_TC: Tensor, head_size: int, scale: Tensor, epsilon: float, inverse: Tensor
    ) -> None:
        self._head_norm(
            from_TC.data_ptr(),
            from_TC.stride(0),
            to_TC.data_ptr(),
            to_TC.stride(0),
            from_TC.shape[1] // head_size,
            head_size,
            scale.data_ptr(),
            epsilon,
            inverse.data_ptr(),
            from_TC.shape[0],
        )

    def head_norm_backward(
        self, gradient_TC: Tensor, from_TC: Tensor, head_size: int, scale: Tensor, inverse: Tensor
    ) -> None:
        self._head_norm_backward(
            gradient_TC.data_ptr(),
            gradient_TC.stride(0),
            from_TC.data_ptr(),
            from_TC.stride(0),
            from_TC.shape[1] // head_size,
            head_size,
            scale.data_ptr(),
            inverse.data_ptr(),
            from_TC.shape[0],
        )

    def gated(self, kind: Activation, both_T2F: Tensor, out_TF: Tensor) -> None:
        self._gated[kind](both_T2F.data_ptr(), out_TF.data_ptr(), out_TF.stride(0), *out_TF.shape)

    def gated_backward(self, kind: Activation, upstream_TF: Tensor, both_T2F: Tensor, product_TF: Tensor) -> None:
        self._gated_backward[kind](
            upstream_TF.data_ptr(),
            upstream_TF.stride(0),
            both_T2F.data_ptr(),
            product_TF.data_ptr(),
            product_TF.stride(0),
            *product_TF.shape,
        )

    def loss_tile(self, logits_NV: Tensor, targets_N: Tensor, logprobs_N: Tensor) -> None:
        native.refuse_outside(targets_N, logits_NV.shape[1])
        self._loss_tile(logits_NV.data_ptr(), targets_N.data_ptr(), logprobs_N.data_ptr(), *logits_NV.shape)


@cache
def pointwise(dtype: torch.dtype, *widths: int, device: str = "cpu") -> Pointwise:
    """The fastest on a kind of device for a model's type and widths."""
    if device != "cpu":
        return Plain() if gpu.refusal(dtype) else _by_triton()
    library = None if any(width % native.LANES for width in widths) else native.load_for("pointwise", dtype)
    return Plain() if library is None else Native(library)


def activation_of(module: torch.nn.Module) -> Activation | None:
    """Which activation a module computes, by its numbers; `None` if it is none of these."""
    values = torch.linspace(-4, 4, 33)
    found = module(values)
    alike = (kind for kind in get_args(Activation) if torch.allclose(found, _activation(kind, values), atol=1e-6))
    return next(alike, None)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums and the stream are kept in, for a model's type: fp32, and fp64 for an fp64 model."""
    return torch.promote_types(dtype, torch.float32)


def _by_triton() -> Pointwise:
    from sartor.ops.gpu.pointwise import Triton

    return Triton()


def _through_norm(scaled: Tensor, values: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of values · inverse, where inverse = 1 / rms(values), given the upstream gradient times the scale."""
    mean = (scaled * values).mean(dim=-1, keepdim=True) * inverse.square()
    return (scaled - values * mean) * inverse


def _activation(kind: Activation, gate: Tensor) -> Tensor:
    return F.silu(gate) if kind == "silu" else F.gelu(gate, approximate="tanh")
