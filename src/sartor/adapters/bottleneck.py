"""Bottleneck adapters: y ← y + W_up f(W_down y + b₁) + b₂ on what a sublayer adds to the residual stream.

After attention and feed-forward layer (Houlsby et al. 2019, arXiv 1902.00751, §2.1, fig. 2), or after the feed-forward
layer only (Pfeiffer et al. 2020, arXiv 2005.00247); or beside the latter, reading what it reads and scaled
(He et al. 2022, arXiv 2110.04366, table 1, "scaled parallel adapter"). W_up starts at zero, so a new adapter
changes nothing; `init: houlsby` draws both from the paper's normal of 10⁻², cut at two deviations, which is near that.
Houlsby trains the base's norms as well, `norms: true`; Pfeiffer and He do not, and neither do we unless asked.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset, by_name
from sartor.adapters.saving import export as export
from sartor.adapters.wrapping import Activation, places
from sartor.adapters.wrapping import folder as folders
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "bottleneck": Preset(
        summary="a small network after the attention and the feed-forward layer of each block (Houlsby)",
        paper="arXiv 1902.00751",
        served_by=("Sartor's engine",),
        mergeable=False,
        learning_rate=2.0,
    ),
    "pfeiffer": Preset(
        summary="a small network after the feed-forward layer of each block only",
        paper="arXiv 2005.00247",
        served_by=("Sartor's engine",),
        settings={"place": "feed_forward"},
        mergeable=False,
        learning_rate=2.0,
    ),
    "parallel": Preset(
        summary="a small network beside the feed-forward layer of each block, scaled",
        paper="arXiv 2110.04366",
        served_by=("Sartor's engine",),
        settings={"place": "beside", "scale": 4.0},
        mergeable=False,
        learning_rate=2.0,
    ),
}
PEFT_TYPES = ("SARTOR_BOTTLENECK",)
HOOKS = Hooks()


class Config(Frozen):
    """An adapter of width m has 2 d m + m + d parameters at a stream of width d."""

    size: int = Field(64, ge=1, description="The width of the bottleneck.")
    place: places.Place = by_name(
        "both", "After attention and feed-forward layer both, after the latter, or beside it."
    )
    activation: Activation = Field("gelu", description="What is between the two layers.")
    scale: float = Field(1.0, gt=0, description="What the adapter adds is multiplied by this.")
    init: Literal["zero", "houlsby"] = Field("zero", description="The up-projection at zero, or as in the paper.")
    norms: bool = Field(False, description="Train the weights of the base's norms as well.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter in fp32.

    Raises:
        RecipeError: where the model's sublayers end is not known.
    """
    from sartor.adapters.wrapping.bottleneck import BottleneckConfig
    from sartor.adapters.wrapping.tuner import attached

    register()
    settings = config.model_dump(exclude={"norms"})
    targets = places.targets(model, config.place, norms=config.norms)
    return attached(model, BottleneckConfig(target_modules=targets, **settings))


def changes(base: Any, folder: Path) -> Changes:
    """The same, and the weights of tuned norms."""
    settings, modules = folders.read(folder)
    return folders.changes_of(modules, partial(folders.bottleneck, settings))


def register() -> None:
    """PEFT lacks it."""
    from sartor.adapters import registration
    from sartor.adapters.wrapping import bottleneck

    registration.register(bottleneck.NAME, bottleneck.BottleneckConfig, bottleneck.BottleneckTuner)


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters."""
    one = 2 * shape.hidden * config.size + config.size + shape.hidden
    return places.num_adapters(shape, config.place) * one + (places.num_norm_weights(shape) if config.norms else 0)
