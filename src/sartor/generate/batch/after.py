"""What an adapter does to the output of a module, on the rows of its own tokens.

Shapes: K inputs · N outputs · M bottleneck · C tokens of the vocabulary; leading dimensions may be any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from sartor.adapters.changes import Bottleneck, Change, LowRank, Rows, Scale, Shift

#: Changes an output in its place, given what the module read.
After = Callable[[torch.Tensor, torch.Tensor], None]

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}


def after_of(change: Change, dtype: torch.dtype) -> list[After]:
    """What a change does after the module, in the number format of the model: nothing, if all it does comes before."""
    match change:
        case LowRank():
            return [_low_rank(change, dtype)]
        case Scale(output_N=torch.Tensor() as scale_N):
            return [_scale(scale_N.detach().to(dtype))]
        case Shift():
            return [_shift(change.bias_N.detach().to(dtype))]
        case Bottleneck():
            return [_bottleneck(change)]
        case Rows():
            return [_rows(change, dtype)]
    return []


def _scale(scale_N: torch.Tensor) -> After:
    def multiply(x: torch.Tensor, y: torch.Tensor) -> None:
        y.mul_(scale_N)

    return multiply


def _shift(bias_N: torch.Tensor) -> After:
    def add(x: torch.Tensor, y: torch.Tensor) -> None:
        y.add_(bias_N)

    return add


def _low_rank(change: LowRank, dtype: torch.dtype) -> After:
    down_RK, up_NR = change.down_RK.detach().to(dtype), change.up_NR.detach().to(dtype)

    def add(x: torch.Tensor, y: torch.Tensor) -> None:
        y.add_(F.linear(F.linear(x, down_RK), up_NR))

    return add


def _bottleneck(change: Bottleneck) -> After:
    """In fp32, rounded once with the output."""
    down_MK, up_NM = change.down_MK.detach().float(), change.up_NM.detach().float() * change.scale
    down_bias_M, up_bias_N = change.down_bias_M.detach().float(), change.up_bias_N.detach().float() * change.scale
    activate, reads_output = ACTIVATIONS[change.activation], change.reads == "output"

    def add(x: torch.Tensor, y: torch.Tensor) -> None:
        exact = y.float()
        z = exact if reads_output else x.float()
        y.copy_(exact + F.linear(activate(F.linear(z, down_MK, down_bias_M)), up_NM, up_bias_N))

    return add


def _rows(change: Rows, dtype: torch.dtype) -> After:
    rows_CD, bias_C = change.rows_CD.detach().to(dtype), change.bias_C.detach().to(dtype)
    tokens_C = change.tokens_C.detach()

    def put(x: torch.Tensor, y: torch.Tensor) -> None:
        y[..., tokens_C] = F.linear(x, rows_CD, bias_C)

    return put
