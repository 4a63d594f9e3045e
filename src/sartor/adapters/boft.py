"""BOFT: y = s ∘ W R x, with R a product of m sparse rotations that starts at one.

Liu et al. 2023, arXiv 2311.06243, eq. 4. Each factor is block-diagonal after a butterfly permutation, so that m of them
reach every direction with few numbers. PEFT's method. Without its CUDA kernel, which it compiles when it is first used,
PEFT makes m one and goes on: an adapter of another shape than was asked for. So more than one is refused where that
kernel is not to be had.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes
from sartor.adapters.guards import compilers_kept, peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset
from sartor.adapters.saving import export as export
from sartor.errors import RecipeError
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "boft": Preset(
        summary="rotations of what enters the linear layers, as products of sparse ones, and a scale",
        paper="arXiv 2311.06243",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        learning_rate=10.0,  # small blocks turn little: after 40 steps of SmolLM2 the loss is 0.6, and 1.5 at 4
    )
}
PEFT_TYPES = ("BOFT",)
HOOKS = Hooks()


class Config(Frozen):
    """PEFT keeps a permutation of inputs² numbers for each factor of each layer: many layers take much memory."""

    block: int = Field(4, ge=2, description="Width of a block; it must divide the inputs of each layer.")
    factors: int = Field(1, ge=1, description="Butterfly factors; more than one needs a GPU and a CUDA compiler.")
    targets: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1, description="The layers that get an adapter.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter. Not on the meta device: PEFT reads numbers while it builds.

    Raises:
        RecipeError: more than one factor is asked for, and PEFT's kernel cannot be compiled here.
    """
    from peft import BOFTConfig
    from peft.tuners.boft.layer import get_fbd_cuda

    with warnings.catch_warnings(), compilers_kept():
        warnings.simplefilter("ignore")  # once a layer: that the kernel cannot be compiled, which is asked here
        if config.factors > 1 and get_fbd_cuda() is None:
            raise RecipeError(
                f"`tune.adapter.factors` is {config.factors}, and PEFT's CUDA kernel cannot be compiled here",
                hint="leave it out: with one factor a layer is turned block by block, as by oft",
            )
        return peft_model(
            model,
            BOFTConfig(
                boft_block_size=config.block,
                boft_n_butterfly_factor=config.factors,
                target_modules=layers.for_peft(config.targets),
            ),
        )


def changes(base: Any, folder: Path) -> Changes:
    """Other weights of the adapted layers."""
    return merged_changes(base, folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: Σ m b inputs + outputs over the adapted layers: PEFT keeps whole blocks, not half of each.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks, or the block does not divide its inputs.
    """
    sizes = layers.sizes_of(config.targets, shape)
    for inputs, _ in sizes:
        if inputs % config.block:
            raise RecipeError(
                f"`tune.adapter.block` is {config.block}, and a layer has {inputs} inputs", hint="choose a divisor"
            )
    return shape.num_layers * sum(config.factors * config.block * inputs + outputs for inputs, outputs in sizes)
