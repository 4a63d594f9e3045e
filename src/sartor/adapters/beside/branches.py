"""The branches and the aggregator of `lets`, and it as a method of PEFT's. `lets.py` says what it is.

Shapes: B rows · T tokens · N wanted tokens · D hidden size · H width of the aggregator · L layers with a branch ·
J outputs and K inputs of a linear layer · M kept entries of its weight.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sartor.adapters import registration
from sartor.adapters.beside import tuner
from sartor.adapters.beside.reading import Reading, Tensor, device_of, gradients, layers_of, make_room
from sartor.adapters.beside.sizes import num_kept
from sartor.errors import RecipeError
from sartor.hub import ATTENTION

if TYPE_CHECKING:
    from sartor.types import Batch

NAME = "sartor_lets"


@dataclass
class BranchesConfig(tuner.BesideConfig):
    """`first_layer`: branches from there up; `density`: the share of a weight's entries that a branch may change."""

    first_layer: int = 0
    density: float = 0.05
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = registration.type_named(NAME)


class SparseLinear(nn.Module):
    """y = (W + M ⊙ δ) x + b of a frozen linear layer. M and δ are a list of places in W, and a list of values."""

    places_M: Tensor

    def __init__(self, base: nn.Linear, density: float) -> None:
        super().__init__()
        self._base = (base,)  # in a tuple, so that it is neither trained nor saved with this
        size = num_kept(base.weight.numel(), density)
        device = base.weight.device
        self.values_M = nn.Parameter(torch.zeros(size, device=device))
        self.register_buffer("places_M", torch.zeros(size, dtype=torch.int32, device=device))
        self.keep(base.weight.detach().abs())

    @property
    def weight(self) -> Any:
        """The frozen one."""
        return self._base[0].weight

    @torch.no_grad()
    def keep(self, weighed_JK: Tensor) -> None:
        """Let the heaviest entries be changed, from now on."""
        places_M = weighed_JK.float().flatten().topk(len(self.places_M)).indices
        self.places_M.copy_(places_M.sort().values)

    def forward(self, x: Tensor) -> Tensor:
        given = (x.to(self.values_M.dtype), self.weight, self.values_M, self.places_M)
        y: Tensor = _SparseProduct.apply(*given)  # type: ignore[no-untyped-call]
        bias = self._base[0].bias
        return y if bias is None else y + bias


class _SparseProduct(torch.autograd.Function):
    """x (W + M ⊙ δ)ᵀ. The sum of weights is made where it is needed, in the type of δ, and not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_JK: Tensor, values_M: Tensor, places_M: Tensor) -> Tensor:
        ctx.save_for_backward(x, values_M, places_M)
        ctx.weight_JK = weight_JK
        return x @ _summed(weight_JK, values_M, places_M).t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, values_M, places_M = ctx.saved_tensors
        slope = upstream[0]
        of_x = slope @ _summed(ctx.weight_JK, values_M, places_M) if ctx.needs_input_grad[0] else None
        of_weight_JK = slope.flatten(0, -2).t() @ x.flatten(0, -2)
        return of_x, None, of_weight_JK.flatten()[places_M.long()], None


def _summed(weight_JK: Tensor, values_M: Tensor, places_M: Tensor) -> Tensor:
    flat = weight_JK.detach().to(values_M.dtype).flatten()
    return flat.index_add(0, places_M.long(), values_M).view_as(weight_JK)


class Branches(nn.Module):
    """Attention again at each layer, with other weights; what it gives is gathered over the depth, token by token."""

    ATTENDS = True

    def __init__(self, decoder: Any, config: Any) -> None:
        super().__init__()
        layers, width = layers_of(decoder), decoder.config.hidden_size
        self.layers = list(range(config.first_layer, len(layers)))
        self._backbone = tuple(layers)
        attentions, changed = [], []
        for place, number in enumerate(self.layers):
            attention = copy.copy(layers[number].self_attn)
            own = {name: SparseLinear(part, config.density) for name, part in linear_parts(attention).items()}
            attention._modules = {**attention._modules, **own}
            attention.layer_idx = len(layers) + place  # where its keys are in a cache
            attentions.append(attention)
            changed.append(nn.ModuleDict(own))
        self._attentions = tuple(attentions)
        self.changed = nn.ModuleList(changed)
        self.down = nn.Linear(width, config.width, bias=False, device=device_of(decoder))
        self.depth = nn.LSTM(config.width, config.width, device=device_of(decoder))
        self.up = nn.Linear(config.width, width, bias=False, device=device_of(decoder))
        nn.init.zeros_(self.up.weight)

    def forward(self, reading: Reading, norm: nn.Module) -> Tensor:
        cache = reading.calls[0].named.get("cache")
        if cache is not None:
            make_room(cache, len(self._backbone), self.layers)
        gathered = []
        for number, attention in zip(self.layers, self._attentions, strict=True):
            read_BTD = self._backbone[number].input_layernorm(reading.states[number])
            given_BTD = attention(hidden_states=read_BTD, **reading.arguments(number))[0]
            gathered.append(self.down(reading.wanted(given_BTD).float()))
        low_LBNH = torch.stack(gathered)
        deep_LTH, _ = self.depth(low_LBNH.flatten(1, 2))
        update_BND = self.up(deep_LTH[-1].view(low_LBNH.shape[1:]))
        own_BND: Tensor = norm(reading.wanted(reading.states[-1]))
        answer_BND: Tensor = own_BND.float() + update_BND
        return answer_BND.to(own_BND.dtype)

    def sparse(self) -> Iterator[tuple[str, SparseLinear]]:
        """The changed linear layers, by layer and name."""
        for number, parts in zip(self.layers, self.changed, strict=True):
            for name, part in parts.named_children():
                assert isinstance(part, SparseLinear)
                yield f"{number}.{name}", part


class BranchesModel(tuner.BesideModel):
    prefix = f"{NAME}_"

    def network(self, config: Any, decoder: Any, adapter_name: str) -> nn.Module:
        """Branches whose masks are the largest weights."""
        return Branches(decoder, config)


def linear_parts(attention: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of an attention.

    Raises:
        RecipeError: they are others than Llama's.
    """
    found = {name: part for name, part in attention.named_children() if type(part) is nn.Linear}
    if found.keys() != set(ATTENTION):
        raise RecipeError(
            f"a branch needs an attention of plain layers {', '.join(ATTENTION)}, not {', '.join(found) or 'none'}",
            hint="choose lora, or a model of the Llama, Qwen, Gemma, SmolLM or Mistral families, not quantised",
        )
    return found


def mask(model: Any, batches: Sequence[Batch]) -> None:
    """Choose the masks anew: the entries with the largest |g ⊙ W|, g being the slope of the loss of all batches."""
    parts = [part for _, part in tuner.norm_of(model).network.sparse()]
    sums: list[Any] = [0.0] * len(parts)
    for slopes in gradients(model, batches, [part.weight for part in parts]):
        sums = [known + slope.float() for known, slope in zip(sums, slopes, strict=True)]
    for part, slope_JK in zip(parts, sums, strict=True):
        part.keep((slope_JK * part.weight.detach()).abs())


def masks(model: Any) -> dict[str, Tensor]:
    """All masks, for a checkpoint."""
    return {name: part.places_M for name, part in tuner.norm_of(model).network.sparse()}


@torch.no_grad()
def set_masks(model: Any, places: Mapping[str, Tensor]) -> None:
    """The mirror of `masks`."""
    for name, part in tuner.norm_of(model).network.sparse():
        part.places_M.copy_(places[name])


def register() -> None:
    """Make it known to PEFT."""
    registration.register(NAME, BranchesConfig, BranchesModel)
