"""LoKr and KronA: ΔW = s · A ⊗ B, a Kronecker product; A starts at zero.

With A of a₁ × a₂ and B of b₁ × b₂, a₁ b₁ outputs and a₂ b₂ inputs: an update of full rank from a₁ a₂ + b₁ b₂ numbers
(KronA: Edalati et al. 2022, arXiv 2212.10650, eq. 2). LoKr writes B as a product of rank r where that is smaller (Yeh
et al. 2023, arXiv 2309.14859, §3.2). PEFT's LoKr gives both. It writes out ΔW in each forward.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset, Server
from sartor.adapters.saving import export as export
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
SERVED_BY: tuple[Server, ...] = ("vLLM after conversion", "vLLM after merge", "llama.cpp", "Sartor's engine")
PRESETS = {
    "lokr": Preset(
        summary="updates that are Kronecker products, the larger factor of low rank",
        paper="arXiv 2309.14859",
        served_by=SERVED_BY,
        learning_rate=20.0,  # after 12 steps of SmolLM2 the loss is 0.8, and 4.6 at 5; PEFT's comparison takes 30
    ),
    "krona": Preset(
        summary="updates that are Kronecker products of two factors as equal as can be",
        paper="arXiv 2212.10650",
        served_by=SERVED_BY,
        settings={"r": 0, "factor": 0, "targets": ["q_proj", "v_proj"]},  # the paper's layers
        learning_rate=20.0,  # few numbers a layer: after 40 steps of SmolLM2 the loss is 1.0, and 2.0 at 10
    ),
}
PEFT_TYPES = ("LOKR",)
HOOKS = Hooks()

#: A rank that no layer falls short of, so that PEFT writes B whole; a power of two, so that alpha / r is exact.
WHOLE = 2**20


class Config(Frozen):
    """`r` 0 leaves B whole, `factor` 0 splits each size as near to its root as it can be: both together are KronA."""

    r: int = Field(32, ge=0, le=1024, description="The rank of the larger factor; 0: it is whole.")
    factor: int = Field(
        4, ge=0, description="Rows and columns of the smaller factor; 0: about the root of the layer's."
    )
    scale: float = Field(1.0, gt=0, description="The scale of the update.")
    targets: tuple[str, ...] = Field(layers.ALL, min_length=1, description="The layers that get an adapter.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter."""
    from peft import LoKrConfig

    r = config.r or WHOLE
    alpha: Any = config.scale * r  # PEFT says int, and takes any number
    chosen = layers.for_peft(config.targets)
    return peft_model(model, LoKrConfig(r=r, alpha=alpha, decompose_factor=config.factor or -1, target_modules=chosen))


def changes(base: Any, folder: Path) -> Changes:
    """Other weights of the adapted layers: the update is of no low rank."""
    return merged_changes(base, folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: Σ a₁ a₂ + b₁ b₂ over the adapted layers, or a₁ a₂ + r (b₁ + b₂) where B has a low rank.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks.
    """
    return shape.num_layers * sum(_numbers(*size, config) for size in layers.sizes_of(config.targets, shape))


def _numbers(inputs: int, outputs: int, config: Config) -> int:
    """Of one layer."""
    (small_in, large_in), (small_out, large_out) = (_split(size, config.factor) for size in (inputs, outputs))
    low = config.r and config.r < max(large_in, large_out) / 2
    return small_out * small_in + (config.r * (large_out + large_in) if low else large_out * large_in)


def _split(size: int, factor: int) -> tuple[int, int]:
    """A size as a product of two, as PEFT splits it: the factor asked for, or the largest divisor below it and the
    root."""
    if factor and size % factor == 0:
        return factor, size // factor
    small = next(part for part in range(min(factor or size, isqrt(size)), 0, -1) if size % part == 0)
    return small, size // small
