"""(IA)³: keys, values and what enters the last feed-forward layer, each times a learned vector that starts at one.

Liu et al. 2022, arXiv 2205.05638, §3.3. PEFT's method. For some models (Qwen, Gemma) its own choice of layers has the
queries in place of the keys; ours is the paper's on all that have layers of these names. Where queries, keys and values
come from one layer (Phi), the paper's vectors are none of a whole layer: it is refused until layers are named.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes, Scale
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset
from sartor.adapters.saving import by_module
from sartor.adapters.saving import export as export
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "ia3": Preset(
        summary="learned scales of keys, values and the feed-forward layer's inner values",
        paper="arXiv 2205.05638",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        learning_rate=20.0,  # one number moves a whole row: after 40 steps of SmolLM2 the loss is 0.7, and 1.5 at 10
    )
}
PEFT_TYPES = ("IA3",)
HOOKS = Hooks()


class Config(Frozen):
    """Other layers are named where a model calls them otherwise, or to scale more of it."""

    targets: tuple[str, ...] = Field(("k_proj", "v_proj"), description="Layers whose outputs are scaled.")
    feedforward: tuple[str, ...] = Field(("down_proj",), description="Layers whose inputs are scaled.")

    @model_validator(mode="after")
    def _differ(self) -> Config:
        if set(self.targets) & set(self.feedforward) or not self.targets + self.feedforward:
            raise ValueError("a layer is named in `targets` or in `feedforward`, and at least one is named")
        if {*layers.ALL} & {*self.targets, *self.feedforward}:
            raise ValueError(
                "(IA)³ takes names, not all-linear: of some layers it scales the outputs, of others the inputs"
            )
        return self


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter."""
    from peft import IA3Config

    chosen = [*config.targets, *config.feedforward]
    return peft_model(model, IA3Config(target_modules=chosen, feedforward_modules=list(config.feedforward)))


def changes(base: Any, folder: Path) -> Changes:
    """Scales. PEFT keeps one of the inputs as a row (1, K) and one of the outputs as a column (N, 1)."""
    scales = {}
    for name, own in by_module(folder, ".ia3_l").items():
        scale = own[""]
        scales[name] = (Scale(input_K=scale[0]) if scale.shape[0] == 1 else Scale(output_N=scale[:, 0]),)
    return Changes(scales)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: the outputs of the scaled layers, and the inputs of the feed-forward ones.

    Raises:
        RecipeError: a name is of no linear layer of the model's blocks.
    """
    scaled = sum(outputs for _, outputs in layers.sizes_of(config.targets, shape))
    scaled += sum(inputs for inputs, _ in layers.sizes_of(config.feedforward, shape, "feedforward"))
    return shape.num_layers * scaled
