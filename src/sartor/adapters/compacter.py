"""Compacter: bottlenecks of sums of Kronecker products (Mahabadi et al. 2021, arXiv 2106.04647, LPHM).

    W = Σ_{i ≤ n} A_i ⊗ (s_i t_iᵀ)    A_i of n × n shared by all layers of the adapter; s_i, t_i of low rank

Compacter stands after the attention and the feed-forward layer, Compacter++ after the latter only. As in the authors'
code: n = 4, rank 1, width d / 32, GELU, A_i from a normal of 10⁻⁴, so that a new adapter adds next to nothing and
wants a high learning rate, and the base's norms are trained too: the published counts hold them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset, by_name
from sartor.adapters.saving import export as export
from sartor.adapters.wrapping import Activation, places
from sartor.adapters.wrapping import folder as folders
from sartor.errors import RecipeError
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "compacter": Preset(
        summary="small networks after both parts of each block, made of shared Kronecker products",
        paper="arXiv 2106.04647",
        served_by=("Sartor's engine",),
        mergeable=False,
        learning_rate=6.0,
    ),
    "compacter_plus": Preset(
        summary="Compacter after the feed-forward layer of each block only (Compacter++)",
        paper="arXiv 2106.04647",
        served_by=("Sartor's engine",),
        settings={"place": "feed_forward"},
        mergeable=False,
        learning_rate=6.0,
    ),
}
PEFT_TYPES = ("SARTOR_COMPACTER",)
HOOKS = Hooks()
REDUCTION = 32
SIDES = ("down", "up")


class Config(Frozen):
    """`size` 0 stands for d / 32, rounded up to a multiple of `terms`."""

    size: int = Field(
        0, ge=0, description="The width of the bottleneck, a multiple of terms; 0: a 32nd of the model's."
    )
    terms: int = Field(4, ge=1, description="The number n of Kronecker products in a layer; it divides the width.")
    rank: int = Field(1, ge=1, description="The rank of each product's second factor.")
    place: Literal["both", "feed_forward"] = by_name(
        "both", "After attention and feed-forward layer both, or after the latter only."
    )
    activation: Activation = Field("gelu", description="What is between the two layers.")
    norms: bool = Field(True, description="Train the weights of the base's norms as well.")

    def size_at(self, width: int) -> int:
        """The width of the bottleneck at a stream of some width.

        Raises:
            RecipeError: `terms` does not divide both.
        """
        size = self.size or -(-width // (REDUCTION * self.terms)) * self.terms
        for name, value in (("the model's width", width), ("`tune.adapter.size`", size)):
            if value % self.terms:
                raise RecipeError(
                    f"`tune.adapter.terms` is {self.terms}, and does not divide {name}, {value}",
                    hint="choose terms that divides both; 4, 2 and 1 are usual",
                )
        return size


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter in fp32.

    Raises:
        RecipeError: a size does not fit the model, or where its sublayers end is not known.
    """
    from sartor.adapters.wrapping.compacter import CompacterConfig
    from sartor.adapters.wrapping.tuner import attached

    register()
    settings = config.model_dump(exclude={"norms", "size"})
    size = config.size_at(model.config.get_text_config().hidden_size)
    targets = places.targets(model, config.place, norms=config.norms)
    return attached(model, CompacterConfig(target_modules=targets, size=size, **settings))


def changes(base: Any, folder: Path) -> Changes:
    """Bottlenecks with the products made, and the weights of tuned norms."""
    from sartor.ops.kronecker import phm_weight

    settings, modules = folders.read(folder)
    rule = modules[folders.SHARED]["rule"]

    def whole(parts: folders.Parts) -> Any:
        made = {f"{name}.weight": phm_weight(rule, parts[f"{name}.left"], parts[f"{name}.right"]).t() for name in SIDES}
        return folders.bottleneck(settings, {**parts, **made})

    return folders.changes_of(modules, whole)


def register() -> None:
    """PEFT lacks it."""
    from sartor.adapters import registration
    from sartor.adapters.wrapping import compacter

    registration.register(compacter.NAME, compacter.CompacterConfig, compacter.CompacterTuner)


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters.

    Raises:
        RecipeError: a size does not fit the model.
    """
    size = config.size_at(shape.hidden)
    one = 2 * (shape.hidden + size) * config.rank + size + shape.hidden
    norms = places.num_norm_weights(shape) if config.norms else 0
    return places.num_adapters(shape, config.place) * one + config.terms**3 + norms
