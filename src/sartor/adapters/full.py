"""Full fine-tuning: no adapter, every weight of the model itself moves; or only those of its topmost layers.

What comes out is no adapter but a model like the base: a folder in Hugging Face layout (`TRAINS = "model"`). The model
is left in the number format in which it is computed; keeping fp32 masters of its weights is the backend's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.layers import top_layers
from sartor.adapters.method import Preset
from sartor.errors import RecipeError
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "model"
PRESETS = {
    "full": Preset(
        summary="all weights of the model, or those of its topmost layers",
        paper="arXiv 1801.06146",
        served_by=("vLLM as is", "llama.cpp", "Sartor's engine"),
        mixable=False,  # a base of its own
        learning_rate=0.1,  # of what an adapter gets, whatever the task (Schulman 2025, "LoRA without regret")
    )
}
PEFT_TYPES: tuple[str, ...] = ()
HOOKS = Hooks()


class Config(Frozen):
    """With fewer layers the backward ends below them: less memory, less time, and less is forgotten."""

    top_layers: int = Field(
        0, ge=0, description="Only so many top layers, with the final norm and an untied head; 0: all weights."
    )


def attach(model: Any, config: Config) -> Any:
    """The same model, with just the weights trainable that the settings name.

    Raises:
        RecipeError: the model has fewer layers, or they are not where they are in Llama-like models.
    """
    model.requires_grad_(config.top_layers == 0)
    if config.top_layers:
        parts = dict(model.base_model.named_children())
        if not {"layers", "norm"} <= parts.keys():
            raise RecipeError(
                f"`tune.adapter.top_layers`: {type(model).__name__} does not keep its layers as Llama does",
                hint="leave it out to tune all weights, or choose lora",
            )
        for number in top_layers(config.top_layers, len(parts["layers"])):
            parts["layers"][number].requires_grad_(True)
        parts["norm"].requires_grad_(True)
        if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
            model.get_output_embeddings().requires_grad_(True)
    return model


def export(model: Any, folder: Path) -> None:
    """Write `config.json`, `generation_config.json` and safetensors, in the format that the model is computed in."""
    model.save_pretrained(folder)


def changes(base: Any, folder: Path) -> Changes:
    """None: what is in the folder is no adapter."""
    return Changes()


def register() -> None:
    """It is no method of PEFT's."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: all of them, a tied embedding once; or those of the top layers, final norm, untied head.

    Raises:
        RecipeError: the model has fewer layers.
    """
    if not config.top_layers:
        return shape.num_parameters
    outside = shape.hidden + shape.vocab * shape.hidden * (1 if shape.tied else 2)
    block = (shape.num_parameters - outside) // shape.num_layers
    tuned = len(top_layers(config.top_layers, shape.num_layers)) * block
    return tuned + shape.hidden + (0 if shape.tied else shape.vocab * shape.hidden)
