"""Prompts as points of a small space: what intrinsic prompt tuning trains, and the decoder that it needs.

Qin et al. 2021 (arXiv 2110.07867), §3.2: an auto-encoder of many tasks' trained prompts finds the space; its decoder
is frozen, and of a new task only the coordinates are trained.

Shapes: P virtual tokens · D hidden size · I intrinsic dimensions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft.tuners.tuners_utils import BasePromptEncoder
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sartor.errors import RecipeError
from sartor.ops.prompt_space import decoder_of

START = 0.02  # standard deviation of the coordinates at the start (the authors' code)


class IntrinsicPrompt(BasePromptEncoder):  # type: ignore[misc] # PEFT has no types
    """A PEFT encoder whose only trained weights are coordinates: tokens_PD = start_PD + decoder(point_I).

    What is saved is what it gives, so that the adapter is prompt tuning's.
    """

    def __init__(self, start_PD: torch.Tensor, decoder: nn.Module, dimensions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(*start_PD.shape)  # PEFT looks for it by this name
        self.embedding.weight = nn.Parameter(start_PD, requires_grad=False)
        self.decoder = decoder.requires_grad_(False)
        self.point_I = nn.Parameter(torch.randn(dimensions) * START)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        tokens_PD: torch.Tensor = self.embedding.weight + self.decoder(self.point_I).view_as(self.embedding.weight)
        return tokens_PD[indices]


def without_corpus(start_PD: torch.Tensor, dimensions: int) -> IntrinsicPrompt:
    """A random orthogonal decoder, the paper's own baseline for a found one (§4.3), around words of the vocabulary.

    Its rows have norm 1 in the mean: an update of all coordinates moves a number of the prompt by about as much as the
    same update of prompt tuning's own numbers.
    """
    decoder = nn.Linear(dimensions, start_PD.numel(), bias=False)
    nn.init.orthogonal_(decoder.weight, gain=(start_PD.numel() / dimensions) ** 0.5)
    return IntrinsicPrompt(start_PD.detach().clone(), decoder, dimensions)


def from_file(path: Path, start_PD: torch.Tensor, dimensions: int) -> IntrinsicPrompt:
    """The decoder of an auto-encoder that `ops.prompt_space.fit` made.

    Raises:
        RecipeError: there is no such file, or it is a decoder of another size.
    """
    decoder = decoder_of(dimensions, start_PD.numel())
    hint = "name the safetensors file of a decoder that `fit` made for as many tokens and dimensions, or leave it out"
    try:
        decoder.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"`tune.adapter.decoder`: {path} cannot be read: {error}", hint=hint) from error
    except RuntimeError as error:  # torch's word for other names or sizes
        wanted = f"{start_PD.shape[0]} tokens of {start_PD.shape[1]} numbers in {dimensions} dimensions"
        raise RecipeError(f"`tune.adapter.decoder`: {path} is no decoder to {wanted}", hint=hint) from error
    return IntrinsicPrompt(torch.zeros_like(start_PD), decoder, dimensions)
