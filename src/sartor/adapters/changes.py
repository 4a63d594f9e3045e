"""What an adapter makes of a base, as an engine needs it to answer with many adapters in one batch.

A change belongs to a module of the base, by its name there; several of one adapter's may belong to the same. Each is
exact: applied to an adapter's own tokens it gives what PEFT's forward gives.

Shapes: K inputs · N outputs · R rank · M bottleneck · P virtual tokens · D hidden size · G width of all key heads
· C tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LowRank:
    """y += up_NR (down_RK x): the scale is already in `up`."""

    down_RK: torch.Tensor
    up_NR: torch.Tensor


@dataclass(frozen=True, slots=True)
class Weight:
    """Another weight in the place of the module's own: a linear layer's (N, K), a norm's (D,), and a bias (N,)."""

    weight: torch.Tensor
    bias_N: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """x := x · input_K before a linear layer, or y := y · output_N after it; None where nothing is scaled."""

    input_K: torch.Tensor | None = None
    output_N: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Shift:
    """y += bias_N after a linear layer or a norm."""

    bias_N: torch.Tensor


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """y += scale · (up_NM f(down_MK z + down_bias_M) + up_bias_N).

    z is what the module gives (`reads` "output"), or, for an adapter beside it, what it reads ("input"). The module is
    the linear layer that ends a sublayer (`o_proj`, `down_proj`) or, for one beside it, the whole feed-forward layer
    (`mlp`): z is then what the norm before it gives, and y what is added to the stream. In fp32, rounded once with y.
    """

    down_MK: torch.Tensor
    down_bias_M: torch.Tensor
    up_NM: torch.Tensor
    up_bias_N: torch.Tensor
    activation: Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "none"]
    scale: float = 1.0
    reads: Literal["output", "input"] = "output"


@dataclass(frozen=True, slots=True)
class Rows:
    """Of a head: the logits of `tokens_C` are rows_CD x + bias_C, those of all other tokens stay as they are.

    An embedding that is tied to the head keeps its own rows.
    """

    tokens_C: torch.Tensor
    rows_CD: torch.Tensor
    bias_C: torch.Tensor


Change = LowRank | Weight | Scale | Shift | Bottleneck | Rows


@dataclass(frozen=True, slots=True)
class Prompt:
    """Virtual tokens at the beginning of each sequence, at positions 0 to P - 1, as embeddings."""

    embeddings_PD: torch.Tensor


@dataclass(frozen=True, slots=True)
class Prefix:
    """The same as keys and values of each layer; the keys are not rotated any more. Text begins at position P."""

    keys_PG: Sequence[torch.Tensor]
    values_PG: Sequence[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Changes:
    """All of one adapter. `alone` says why it cannot be answered with beside others; "" when it can."""

    modules: Mapping[str, Sequence[Change]] = field(default_factory=dict)
    beginning: Prompt | Prefix | None = None
    alone: str = ""

    def to(self, device: torch.device) -> Changes:
        """The same, with all tensors on a device."""
        return replace(
            self,
            modules={name: [_moved(change, device) for change in own] for name, own in self.modules.items()},
            beginning=None if self.beginning is None else _moved(self.beginning, device),
        )


def _moved(part: Any, device: torch.device) -> Any:
    """A dataclass of tensors, and lists of them, on a device; other fields stay."""
    found = {each.name: getattr(part, each.name) for each in fields(part)}
    return replace(part, **{name: _value_on(value, device) for name, value in found.items()})


def _value_on(value: Any, device: torch.device) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [_value_on(item, device) for item in value] if isinstance(value, (list, tuple)) else value
