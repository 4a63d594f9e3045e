"""BitFit: only bias terms are trained (Ben Zaken et al. 2021, arXiv 2106.10199, §3).

A model that has biases has them trained: all of BERT's or GPT-2's, those of queries, keys and values in Qwen2. Llama
and most others have none: every linear layer of their blocks is given one, which starts at zero. What is trained and
saved is what is added to a bias, so an untrained adapter is the base. A method of ours: PEFT's BEFT adds biases too,
but to linear layers alone, and cannot merge them into a layer that has none. Ours merges; as transformers reads only
biases that a configuration names, `sartor convert --to model` writes such a model, and refuses where a type has no
place for them (Mistral, Gemma, Qwen with biases on all layers): Sartor's engine serves the adapter itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes, Shift
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset
from sartor.adapters.saving import by_module
from sartor.adapters.saving import export as export
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "bitfit": Preset(
        summary="the biases; a model without any gets one on every linear layer",
        paper="arXiv 2106.10199",
        served_by=("vLLM after merge", "Sartor's engine"),
        learning_rate=10.0,  # the paper: up to 1e-2, 10 times and more what it takes for full fine-tuning
    )
}
PEFT_TYPES = ("SARTOR_BITFIT",)
HOOKS = Hooks()

#: Stands for the model's own biases or, where it has none, for new ones on every linear layer of its blocks.
OWN = ("biases",)


class Config(Frozen):
    """With `all-linear`, or by names, layers without a bias get one although others have theirs."""

    targets: tuple[str, ...] = Field(OWN, min_length=1, description="The layers whose bias is trained.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter.

    Raises:
        RecipeError: no layer that can have a bias is named so.
    """
    from sartor.adapters.wrapping.bias import BiasConfig, biased, linear, named
    from sartor.adapters.wrapping.tuner import attached

    register()
    if config.targets == OWN:
        paths = biased(model) or linear(model)
    else:
        paths = linear(model) if config.targets == layers.ALL else named(model, config.targets)
    return attached(model, BiasConfig(target_modules=paths))


def changes(base: Any, folder: Path) -> Changes:
    """What is added to the outputs of layers."""
    return Changes({name: (Shift(own["weight"]),) for name, own in by_module(folder, ".adapter_bias.").items()})


def register() -> None:
    """Make the type known to PEFT."""
    from sartor.adapters import registration
    from sartor.adapters.wrapping.bias import NAME, BiasConfig, BiasTuner

    registration.register(NAME, BiasConfig, BiasTuner)


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: the outputs of the layers whose bias is trained.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks.
    """
    chosen = (shape.biased or layers.ALL) if config.targets == OWN else config.targets
    return shape.num_layers * sum(outputs for _, outputs in layers.sizes_of(chosen, shape))
