"""VeRA: y = W x + b ⊙ (B (d ⊙ (A x))), two trained vectors for each layer, A and B random, frozen, the same for all.

Kopiczko et al. 2024, arXiv 2310.11454, eq. 2. PEFT's method: A and B are as large as the largest layer needs, and each
takes the first rows and columns of them. b starts at zero. A and B are saved with the vectors: a random generator may
give others elsewhere.

Shapes: R rank · K inputs · N outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes, LowRank
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.low_rank import beyond_plain, by_layer, changes_of
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset
from sartor.adapters.saving import ADAPTER, read_config, read_weights
from sartor.adapters.saving import export as export
from sartor.types import Frozen

if TYPE_CHECKING:
    import torch

    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "vera": Preset(
        summary="two trained vectors for each layer, around random matrices that all layers share",
        paper="arXiv 2310.11454",
        served_by=("vLLM after conversion", "vLLM after merge", "llama.cpp", "Sartor's engine"),
        learning_rate=50.0,  # the paper's are 10 times its LoRA's: 40 updates of SmolLM2 then end at a loss of 4.7
    )
}
PEFT_TYPES = ("VERA",)
KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.vera_lambda_(?P<part>[bd])")
SHARED = ("base_model.vera_A", "base_model.vera_B")


class Config(Frozen):
    """The paper's settings. A rank costs a number in each layer, and the products with A and B."""

    r: int = Field(256, ge=1, le=4096, description="The rank of the shared matrices.")
    d_initial: float = Field(0.1, description="What the inner vector begins at.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    targets: tuple[str, ...] = Field(layers.ALL, min_length=1, description="The layers that get an adapter.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter."""
    from peft import VeraConfig

    return peft_model(
        model,
        VeraConfig(
            r=config.r,
            d_initial=config.d_initial,
            vera_dropout=config.dropout,
            target_modules=layers.for_peft(config.targets),
            save_projection=True,
        ),
    )


def changes(base: Any, folder: Path) -> Changes:
    """Low-rank updates: (b ⊙ B) (d ⊙ A), in a layer's own rows and columns of B and A.

    Raises:
        ModelError: it is no adapter of this base.
    """
    weights = read_weights(folder)
    if beyond_plain(read_config(folder)) or not weights.keys() >= set(SHARED):  # PEFT can draw A and B again
        return merged_changes(base, folder)
    down_RK, up_NR = (weights.pop(name).float() for name in SHARED)
    modules = dict(base.named_modules())
    updates = {}
    for layer, own in by_layer(weights, KEY, "bd", folder).items():
        num_inputs = modules[layer].in_features if layer in modules else down_RK.shape[1]
        updates[layer] = LowRank(
            own["d"][:, None] * down_RK[:, :num_inputs], own["b"][:, None] * up_NR[: len(own["b"])]
        )
    return changes_of(base, updates, folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: r + outputs of each adapted layer.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks.
    """
    return shape.num_layers * sum(config.r + outputs for _, outputs in layers.sizes_of(config.targets, shape))


def _state(model: Any, config: Config) -> Mapping[str, torch.Tensor]:
    """The shared matrices."""
    return {part: matrix[ADAPTER] for part, matrix in _shared(model).items()}


def _restore(model: Any, config: Config, tensors: Mapping[str, torch.Tensor]) -> None:
    for part, matrix in _shared(model).items():
        matrix[ADAPTER].copy_(tensors[part])


def _shared(model: Any) -> dict[str, Any]:
    return {"A": model.base_model.vera_A, "B": model.base_model.vera_B}


HOOKS = Hooks(state=_state, restore=_restore)
