"""LoHa: ΔW = (α/r) (A₁ B₁) ∘ (A₂ B₂), of rank up to r² (Hyeon-Woo et al. 2021, arXiv 2108.06098, eq. 3). B₂ starts at
zero.

The element-wise product makes of two low ranks a high one, at twice LoRA's numbers for the same r. As in LyCORIS (Yeh
et al. 2023, arXiv 2309.14859) it is an update beside a frozen weight. PEFT's method, as it stands.
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
    "loha": Preset(
        summary="updates of high rank, as the element-wise product of two low-rank ones",
        paper="arXiv 2108.06098",
        served_by=("vLLM after conversion", "vLLM after merge", "llama.cpp", "Sartor's engine"),
        learning_rate=10.0,  # a product of small ones begins slowly: at 2, 40 steps of SmolLM2 end at a loss of 4.9
    )
}
PEFT_TYPES = ("LOHA",)
HOOKS = Hooks()


class Config(Frozen):
    """`alpha` 0 means r: the scale is then 1."""

    r: int = Field(
        8, ge=1, le=1024, description="The rank of each of the two factors; the update's is up to its square."
    )
    alpha: float = Field(0.0, ge=0, description="The scale of the update is alpha / r; 0 stands for r.")
    targets: tuple[str, ...] = Field(layers.ALL, min_length=1, description="The layers that get an adapter.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter."""
    from peft import LoHaConfig

    alpha: Any = config.alpha or config.r  # PEFT says int, and takes any number
    return peft_model(model, LoHaConfig(r=config.r, alpha=alpha, target_modules=layers.for_peft(config.targets)))


def changes(base: Any, folder: Path) -> Changes:
    """Other weights of the adapted layers: the update is of no low rank."""
    return merged_changes(base, folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: Σ 2 r (inputs + outputs) over the adapted layers.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks.
    """
    sizes = layers.sizes_of(config.targets, shape)
    return shape.num_layers * sum(2 * config.r * (inputs + outputs) for inputs, outputs in sizes)
