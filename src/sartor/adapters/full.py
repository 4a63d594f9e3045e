"""Full fine-tuning: no adapter, every weight of the model itself moves; or only some of them.

Those of its topmost layers (Howard & Ruder 2018, arXiv 1801.06146, §3.3, freeze from below), or those whose names fit
an expression. What comes out is no adapter but a model like the base: a folder in Hugging Face layout (`TRAINS =
"model"`). The model is left in the number format in which it is computed; keeping fp32 masters of its weights is the
backend's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from sartor.adapters.changes import Changes
from sartor.adapters.guards import train_heads
from sartor.adapters.hooks import Hooks
from sartor.adapters.layers import stacks, top_layers
from sartor.adapters.method import Preset, Server
from sartor.errors import RecipeError
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "model"
SERVED_BY: tuple[Server, ...] = ("vLLM as is", "llama.cpp", "Sartor's engine")
PRESETS = {
    "full": Preset(
        layers="hand-written",
        summary="all weights of the model, or those of its topmost layers, or those of certain names",
        paper="arXiv 1801.06146",
        served_by=SERVED_BY,
        mixable=False,  # a base of its own
        learning_rate=0.1,  # of what an adapter gets, whatever the task (Schulman 2025, "LoRA without regret")
        moves_base="every weight",
    ),
    "top_layers": Preset(
        layers="hand-written",
        summary="all weights of the topmost quarter of the layers",
        paper="arXiv 1801.06146",
        served_by=SERVED_BY,
        # Lee et al. 2019, arXiv 1911.03090: a quarter of the layers reaches nine tenths of what all of them do.
        settings={"top_layers": 0.25},
        mixable=False,
        learning_rate=0.1,
        moves_base="the weights of its topmost layers",
    ),
}
PEFT_TYPES: tuple[str, ...] = ()
HOOKS = Hooks()


class Config(Frozen):
    """With fewer layers the backward ends below them: less memory, less time, and less is forgotten."""

    top_layers: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0,
        description="Only so many top layers, or such a share, with the final norm and an untied head; 0: all weights.",
    )
    parameters: str = Field(
        "", description="Only parameters in whose name this regular expression is found, like layers\\.2[0-9]\\..*mlp."
    )

    @field_validator("parameters")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _one_choice(self) -> Config:
        if self.top_layers and self.parameters:
            raise ValueError("choose by `top_layers` or by `parameters`, not by both")
        return self


def attach(model: Any, config: Config) -> Any:
    """The same model, with just the weights trainable that the settings name.

    Raises:
        RecipeError: the model has fewer layers, or no list of them, or no such parameter.
    """
    if config.parameters:
        parameters = dict(model.named_parameters())
        chosen = _chosen(parameters, config.parameters)
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)
        train_heads(model)
        return model
    model.requires_grad_(config.top_layers == 0)
    if config.top_layers:
        for layers, above in stacks(model.base_model):
            for number in top_layers(config.top_layers, len(layers)):
                layers[number].requires_grad_(True)
            for part in above:
                part.requires_grad_(True)
        head = model.get_output_embeddings()
        if head is not None and head.weight is not model.get_input_embeddings().weight:
            head.requires_grad_(True)
        train_heads(model)
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
    """Trainable parameters: all of them, a tied embedding once; or those that the settings choose.

    Raises:
        RecipeError: the model has fewer layers, or no such parameter.
    """
    block, outer = shape.block_sizes(), shape.outer_sizes()
    if config.parameters:
        layers = {f"model.layers.{n}.{name}": size for n in range(shape.num_layers) for name, size in block.items()}
        sizes = outer | layers
        return sum(sizes[name] for name in _chosen(sizes, config.parameters))
    if not config.top_layers:
        return shape.num_parameters
    above = sum(size for name, size in outer.items() if name != "model.embed_tokens.weight")
    return len(top_layers(config.top_layers, shape.num_layers)) * sum(block.values()) + above


def _chosen(names: Iterable[str], expression: str) -> set[str]:
    """The names in which the expression is found.

    Raises:
        RecipeError: none.
    """
    known = tuple(names)
    found = {name for name in known if re.search(expression, name)}
    if not found:
        raise RecipeError(
            f"`tune.adapter.parameters` is {expression!r}, which is in the name of no parameter",
            hint=f"names look like {known[-1]}; a head that is tied to the embedding has no name of its own",
        )
    return found
