"""AttentionFusion's network, and it as a method of PEFT's. `attention_fusion.py` says what it is.

Shapes: B rows · T tokens · N wanted tokens · J states, the embeddings and what leaves each layer · D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sartor.adapters import registration
from sartor.adapters.beside import tuner
from sartor.adapters.beside.reading import Reading, device_of, layers_of

NAME = "sartor_attention_fusion"


@dataclass
class FusionConfig(tuner.BesideConfig):
    """`gated`: the form for language models."""

    gated: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = registration.type_named(NAME)


class LayerFusion(nn.Module):
    """A mixture of the states of each token, over the layers, by a learned query."""

    ATTENDS = False

    def __init__(self, num_states: int, width: int, *, gated: bool, device: torch.device) -> None:
        super().__init__()
        self.gated = gated
        self.query_D = nn.Parameter(torch.zeros(width, device=device))
        if gated:
            self.bias_J = nn.Parameter(torch.zeros(num_states, device=device))
            self.gate = nn.Parameter(torch.zeros(1, device=device))

    def weights(self, states_BNJD: torch.Tensor) -> torch.Tensor:
        """How much of each state goes into a token, (B, N, J)."""
        if not self.gated:
            return torch.softmax(states_BNJD @ self.query_D, dim=-1)
        width = states_BNJD.shape[-1]
        evened_BNJD = nn.functional.rms_norm(states_BNJD, (width,), eps=1e-6)
        return torch.softmax(evened_BNJD @ self.query_D / width**0.5 + self.bias_J, dim=-1)

    def forward(self, reading: Reading, norm: nn.Module) -> torch.Tensor:
        states = [reading.wanted(state) for state in reading.states]
        states_BNJD = torch.stack(states, dim=2).float()
        mixed_BND = torch.einsum("bnj,bnjd->bnd", self.weights(states_BNJD), states_BNJD)
        if self.gated:
            last_BND = states_BNJD[:, :, -1]
            mixed_BND = last_BND + self.gate * (mixed_BND - last_BND)
        result_BND: torch.Tensor = norm(mixed_BND.to(states[-1].dtype))
        return result_BND


class FusionModel(tuner.BesideModel):
    prefix = f"{NAME}_"

    def network(self, config: Any, decoder: Any, adapter_name: str) -> nn.Module:
        """One query for all tokens."""
        num_states, width = len(layers_of(decoder)) + 1, decoder.config.hidden_size
        return LayerFusion(num_states, width, gated=config.gated, device=device_of(decoder))


def register() -> None:
    """Make it known to PEFT."""
    registration.register(NAME, FusionConfig, FusionModel)
