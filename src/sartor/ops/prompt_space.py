"""The space of intrinsic prompt tuning: an auto-encoder of many tasks' trained prompts, and how it is fitted.

Qin et al. 2021 (arXiv 2110.07867), §3.2.

Shapes: B prompts of the corpus · P virtual tokens · D hidden size · F = P · D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

WIDTH = 768  # of the decoder's hidden layer, whatever the model (the authors' code)


class Autoencoder(nn.Module):
    """Linear to I dimensions, and back by linear, tanh, linear: the form of the authors' code."""

    def __init__(self, num_floats: int, dimensions: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(num_floats, dimensions)
        self.decoder = decoder_of(dimensions, num_floats)

    def forward(self, prompts_BF: torch.Tensor) -> torch.Tensor:
        decoded_BF: torch.Tensor = self.decoder(self.encoder(prompts_BF))
        return decoded_BF


def fit(
    prompts_BPD: torch.Tensor, dimensions: int, *, steps: int = 2000, rate: float = 1e-3, seed: int = 0
) -> Autoencoder:
    """An auto-encoder of trained prompts, by the mean squared error of what it gives back.

    That is the paper's first loss. Its second, the tasks' own loss through the decoded prompts, needs all their data.
    Save `.decoder.state_dict()` as safetensors: that is the file which `decoder` names.
    """
    torch.manual_seed(seed)
    prompts_BF = prompts_BPD.flatten(1).float()
    coder = Autoencoder(prompts_BF.shape[1], dimensions)
    optimizer = torch.optim.Adam(coder.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (coder(prompts_BF) - prompts_BF).square().mean().backward()
        optimizer.step()
    return coder.requires_grad_(False)


def decoder_of(dimensions: int, num_floats: int) -> Any:
    """From the space back to the numbers of a prompt."""
    return nn.Sequential(nn.Linear(dimensions, WIDTH), nn.Tanh(), nn.Linear(WIDTH, num_floats))
