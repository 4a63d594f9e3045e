"""OFT: y = W R x, with R block-diagonal and orthogonal (Qiu et al. 2023, arXiv 2306.07280, eq. 5); R starts at one.

Each block is the Cayley transform (I + Q)(I - Q)⁻¹ of a skew-symmetric Q. Turning what enters a layer, and stretching
nothing, keeps the angles between neurons. As in OFT v2 (arXiv 2506.19847, §3.3) the inverse is a Neumann series of five
terms, which is right while Q is small; `exact` solves it. PEFT's method, as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset
from sartor.adapters.saving import export as export
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "oft": Preset(
        summary="rotations of what enters the linear layers, block by block",
        paper="arXiv 2306.07280",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
    )
}
PEFT_TYPES = ("OFT",)
HOOKS = Hooks()


class Config(Frozen):
    """A larger block turns more directions at once: more numbers, and more time."""

    block: int = Field(
        32, ge=2, description="Width of a block; in a layer that it does not divide, the nearest that does."
    )
    exact: bool = Field(False, description="Solve for the rotation instead of the series: slower, right at any size.")
    targets: tuple[str, ...] = Field(layers.ALL, min_length=1, description="The layers that get an adapter.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter."""
    from peft import OFTConfig

    return peft_model(
        model,
        OFTConfig(
            oft_block_size=config.block,
            use_cayley_neumann=not config.exact,
            target_modules=layers.for_peft(config.targets),
        ),
    )


def changes(base: Any, folder: Path) -> Changes:
    """Other weights of the adapted layers."""
    return merged_changes(base, folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: Σ b (b - 1) / 2 over the blocks of the adapted layers, so inputs (b - 1) / 2 for each.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks.
    """
    widths = (inputs for inputs, _ in layers.sizes_of(config.targets, shape))
    return shape.num_layers * sum(inputs * (_block(inputs, config.block) - 1) // 2 for inputs in widths)


def _block(inputs: int, asked: int) -> int:
    """The divisor nearest to what was asked for, of two the smaller, as PEFT takes it."""
    return min(
        (part for part in range(1, inputs + 1) if inputs % part == 0), key=lambda part: (abs(part - asked), part)
    )
