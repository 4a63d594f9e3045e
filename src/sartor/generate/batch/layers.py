"""A loaded model's layers made ready for sampling: fewer and larger products, every adapter at hand, norms in one call.

Linear layers that read the same input become one product. With adapters, each is y = [x, low] [W, s B]ᵀ, where `low`
is x Aᵀ for the A of all adapters and zero outside a token's own: any mix of adapters takes one product, rounded once
(`ops/lora_linear.py`). The weights are laid out once, as oneDNN reads them; the modules' own are let go.

Shapes: T tokens · K inputs · N outputs · R ranks of all adapters together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import ModelError
from sartor.generate.batch.adapters import Delta

#: Layers that read the same input where one module has all of them.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
TYPICAL_ROWS = 64  # what oneDNN lays the weights out for; other sizes are right too

#: Deltas by adapter and then by layer; the adapter's place is its number, and no adapter is -1.
Deltas = Sequence[Mapping[str, Delta]]
BASE = -1


@dataclass
class Choice:
    """Which adapter each token of the current forward has; its layers read it here."""

    _adapters_T: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    _masks: dict[tuple[int, ...], torch.Tensor | None] = field(default_factory=dict)
    _dtype: torch.dtype = torch.float32

    def set(self, adapters: Sequence[int], dtype: torch.dtype) -> None:
        self._adapters_T = torch.tensor(adapters)
        self._dtype = dtype
        self._masks = {}

    def mask(self, owners: tuple[int, ...]) -> torch.Tensor | None:
        """1 where a column of A belongs to the token's adapter, else 0: (T, R). None where all do."""
        if owners not in self._masks:
            own_TR = self._adapters_T[:, None] == torch.tensor(owners)
            self._masks[owners] = None if bool(own_TR.all()) else own_TR.to(self._dtype)
        return self._masks[owners]


class Product:
    """y = x Wᵀ + b with W laid out for it."""

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self._bias = bias_N
        self._packed = weight_NK.dtype == torch.bfloat16 and _multiplies_bf16()
        weight = weight_NK.contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS) if self._packed else weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._packed:
            return F.linear(x, self._weight, self._bias)
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def _multiplies_bf16() -> bool:
    """Whether oneDNN is there and has bf16 products for this processor (from AVX-512 on)."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call, no-any-return]


class Together:
    """Linear layers with the same input. The first that is called computes all; each result is handed out once."""

    def __init__(self, layers: Mapping[str, nn.Linear], deltas: Deltas, choice: Choice) -> None:
        self._choice = choice
        self._seen: torch.Tensor | None = None
        self._made: dict[int, torch.Tensor] = {}
        self._owners = [
            tuple(place for place, each in enumerate(deltas) if name in each for _ in each[name].down_RK)
            for name in layers
        ]
        self._ranks = [len(owners) for owners in self._owners]
        self._sizes = [layer.out_features for layer in layers.values()]
        dtype = next(iter(layers.values())).weight.dtype
        if not any(self._owners):
            biases = [layer.bias.detach() for layer in layers.values() if layer.bias is not None]
            bias = torch.cat(biases) if biases else None
            self._products = [Product(torch.cat([layer.weight.detach() for layer in layers.values()]), bias)]
            return
        own = [[each[name] for each in deltas if name in each] for name in layers]
        self._down_RK = torch.cat([delta.down_RK for part in own for delta in part]).to(dtype)
        self._products = [
            Product(torch.cat((layer.weight.detach(), *(delta.up_NR.to(dtype) for delta in part)), dim=1), layer.bias)
            for layer, part in zip(layers.values(), own, strict=True)
        ]

    def take(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """The output of the layer at a place of the group."""
        if x is not self._seen or place not in self._made:
            self._seen, self._made = x, dict(enumerate(self._compute(x)))
        y = self._made.pop(place)
        if not self._made:
            self._seen = None
        return y

    def _compute(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        if not any(self._ranks):
            y = self._products[0](x)
            return torch.split(y, self._sizes, dim=-1) if len(self._sizes) > 1 else (y,)
        lows = torch.split(F.linear(x, self._down_RK), self._ranks, dim=-1)
        made = []
        for product, owners, low in zip(self._products, self._owners, lows, strict=True):
            mask = self._choice.mask(owners)
            made.append(product(torch.cat((x, low if mask is None else low * mask), dim=-1)))
        return made


class Part(nn.Module):
    """Stands where one of the group's layers stood."""

    def __init__(self, together: Together, place: int) -> None:
        super().__init__()
        self._together = together
        self._place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._together.take(self._place, x)


class Norm(nn.Module):
    """RMSNorm as one call of torch's."""

    def __init__(self, weight_D: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self._weight_D = weight_D
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self._weight_D.shape, self._weight_D, self._epsilon)


def prepare(model: nn.Module, deltas: Deltas) -> Choice:
    """Replace the layers of a model of our own. What each token's adapter is goes into the choice before a forward.

    Raises:
        ModelError: an adapter changes a layer that this model does not have.
    """
    choice = Choice()
    wanted = {name for each in deltas for name in each}
    for prefix, parent in list(model.named_modules()):
        linear = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
        for group in _groups(linear):
            layers = {f"{prefix}.{name}".strip("."): linear[name] for name in group}
            together = Together(layers, deltas, choice)
            for place, name in enumerate(group):
                parent.register_module(name, Part(together, place))
            wanted -= layers.keys()
        for name, child in list(parent.named_children()):
            norm = _norm_like(child)
            if norm is not None:
                parent.register_module(name, norm)
    if wanted:
        raise ModelError(
            f"an adapter changes {sorted(wanted)[0]}, which is no linear layer of this model",
            hint="the adapter belongs to another base model",
        )
    return choice


def _groups(linear: Mapping[str, nn.Linear]) -> list[tuple[str, ...]]:
    """The linear layers of a module, those with the same input together."""
    groups = [
        names
        for names in TOGETHER
        if all(name in linear for name in names) and len({linear[name].bias is None for name in names}) == 1
    ]
    taken = {name for names in groups for name in names}
    return [*groups, *((name,) for name in linear if name not in taken)]


def _norm_like(module: nn.Module) -> Norm | None:
    """A norm that gives what this module gives, if it is an RMSNorm of a kind we know: it is tried on numbers."""
    if not type(module).__name__.endswith("RMSNorm"):
        return None
    weights = [weight for name, weight in module.named_parameters() if name == "weight"]
    facts: dict[str, Any] = vars(module)
    epsilon = facts.get("variance_epsilon", facts.get("eps"))
    if not weights or not isinstance(epsilon, float):
        return None
    weight_D = weights[0].detach()
    x = torch.randn(4, len(weight_D), generator=torch.Generator().manual_seed(0)).to(weight_D.dtype)
    with torch.no_grad():
        wanted = module(x)
        for scale_D in (weight_D, (1.0 + weight_D.float()).to(weight_D.dtype)):
            norm = Norm(scale_D, epsilon)
            if torch.allclose(norm(x), wanted, rtol=0.02 if weight_D.dtype == torch.bfloat16 else 1e-5, atol=1e-6):
                return norm
    return None
