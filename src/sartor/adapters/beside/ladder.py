"""Ladder Side-Tuning's network beside a Llama-like decoder, and it as a method of PEFT's. `lst.py` says what it is.

Shapes: B rows · T tokens · N wanted tokens · D hidden size of the backbone · E of the side network · L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sartor.adapters import registration
from sartor.adapters.beside import pruning, tuner
from sartor.adapters.beside.reading import Reading, Tensor, device_of, layers_of, make_room
from sartor.adapters.beside.sizes import narrow_head

NAME = "sartor_lst"
#: The gates' temperature (Sung et al. 2022, §3.2).
TEMPERATURE = 0.1


@dataclass
class LadderConfig(tuner.BesideConfig):
    """`reduction` is r; `drop_layers` have no side layer; `add` keeps the backbone's own answer."""

    reduction: int = 8
    drop_layers: list[int] | None = None
    add: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = registration.type_named(NAME)


class Ladder(nn.Module):
    """A decoder of 1/r of the width, whose layers read what leaves those of the backbone.

    One gate a layer, also for those that are dropped, as the authors' code has it.
    """

    def __init__(self, decoder: Any, config: Any) -> None:
        super().__init__()
        layers, width = layers_of(decoder), decoder.config.hidden_size
        self.layers = [number for number in range(len(layers)) if number not in (config.drop_layers or ())]
        self.add = config.add
        self._configs = (narrowed(decoder.config, config.reduction), decoder.config)
        side = self._configs[0]
        self.head_sizes = (side.head_dim, layers[0].self_attn.head_dim)
        self.first = nn.Linear(width, side.hidden_size)
        self.downs = nn.ModuleList(nn.Linear(width, side.hidden_size) for _ in self.layers)
        self.gates_L = nn.Parameter(torch.zeros(len(layers)))
        blocks = [type(layers[number])(side, number) for number in self.layers]
        for place, block in enumerate(blocks):
            block.self_attn.layer_idx = len(layers) + place  # where its keys are in a cache
        self.blocks = nn.ModuleList(blocks)
        self.norm = copy.deepcopy(blocks[0].input_layernorm)
        self.up = nn.Linear(side.hidden_size, width)
        self.to(device=device_of(decoder), dtype=torch.float32)
        pruning.begin(self, decoder, pruning.magnitudes(decoder))

    def forward(self, reading: Reading, norm: nn.Module) -> Tensor:
        side, backbone = self._configs
        side._attn_implementation = backbone._attn_implementation  # which may have been changed since
        num_layers = len(self.gates_L)
        cache = reading.calls[0].named.get("cache")
        if cache is not None:
            make_room(cache, num_layers, self.layers)
        states = [state.float() for state in reading.states]
        gates_L = torch.sigmoid(self.gates_L / TEMPERATURE)
        side_BTE = self.first(states[0])
        for number, down, block in zip(self.layers, self.downs, self.blocks, strict=True):
            side_BTE = gates_L[number] * side_BTE + (1 - gates_L[number]) * down(states[number + 1])
            arguments = reading.arguments(number)
            arguments["position_embeddings"] = rotation(arguments, *self.head_sizes)
            side_BTE = block(side_BTE, **arguments)
        update_BND = self.up(self.norm(reading.wanted(side_BTE)))
        own_BND: Tensor = norm(reading.wanted(reading.states[-1]))
        answer_BND: Tensor = own_BND.float() * self.add + update_BND
        return answer_BND.to(own_BND.dtype)


class LadderModel(tuner.BesideModel):
    prefix = f"{NAME}_"

    @staticmethod
    def network(config: Any, decoder: Any) -> nn.Module:
        """A ladder pruned from the decoder."""
        return Ladder(decoder, config)


def narrowed(config: Any, reduction: int) -> Any:
    """The configuration of the side network: 1/r of each width, as many heads."""
    side = copy.deepcopy(config)
    side.hidden_size //= reduction
    side.intermediate_size //= reduction
    facts = config.to_dict()
    size = facts.get("head_dim") or config.hidden_size // config.num_attention_heads
    side.head_dim = narrow_head(size, reduction)
    if "query_pre_attn_scalar" in facts:  # Gemma's word for the head size that scores are scaled by
        side.query_pre_attn_scalar = config.query_pre_attn_scalar * side.head_dim / size
    return side


def rotation(arguments: Mapping[str, Any], size: int, of: int) -> Sequence[Tensor]:
    """Cosine and sine for narrow heads: those of the frequencies that `pruning.pairs` keeps.

    base^(-2i / size) is what i · of / size is to heads of size `of`: the frequencies of a rotary embedding of `size`.
    """
    cosine, sine = arguments["position_embeddings"]
    kept = pruning.pairs(cosine.shape[-1], cosine.shape[-1] * size // of, cosine.device)
    return cosine[..., kept], sine[..., kept]


def register() -> None:
    """Make it known to PEFT."""
    registration.register(NAME, LadderConfig, LadderModel)
