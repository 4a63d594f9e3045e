"""KronA^B: a Kronecker product beside the feed-forward layer (Edalati et al. 2022, arXiv 2212.10650).

    y ← FFN(x) + s (A ⊗ B) x            KronA^B
    y ← FFN(x) + s (A ⊗ B) x + r x      KronA^B_res, with r learned

At a width d of the stream, A has f rows and d / f columns and B the reverse, so that they hold 2 d parameters, the
fewest that there can be, and the product has rank f² at most. B starts at zero. r does so as well, which keeps a new
adapter from changing anything: what the authors start it with, we could not read. Where f is left out, it is the
largest divisor of d that is not above its square root. No activation is involved, but the feed-forward layer's own
keeps it from being merged.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.changes import Bottleneck, Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset, by_name
from sartor.adapters.saving import export as export
from sartor.adapters.wrapping import folder as folders
from sartor.adapters.wrapping import places
from sartor.errors import RecipeError
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "krona_b": Preset(
        summary="a Kronecker product beside the feed-forward layer of each block",
        paper="arXiv 2212.10650",
        served_by=("Sartor's engine",),
        mergeable=False,
        learning_rate=60.0,  # 2 d numbers a layer: after 40 steps of SmolLM2 the loss is 0.7, 1.5 at 30, and 6.6 at 6
    ),
    "krona_b_res": Preset(
        summary="the same, and a learned share of what the feed-forward layer reads",
        paper="arXiv 2212.10650",
        served_by=("Sartor's engine",),
        settings={"residual": True},
        mergeable=False,
        learning_rate=60.0,  # 2 d numbers a layer: after 40 steps of SmolLM2 the loss is 0.7, 1.5 at 30, and 6.6 at 6
    ),
}
PEFT_TYPES = ("SARTOR_KRONA_B",)
HOOKS = Hooks()


class Config(Frozen):
    """The product is as wide as the stream in both directions."""

    factor: int = Field(
        0, ge=0, description="Rows of the left factor, a divisor of the model's width; 0: near its root."
    )
    scale: float = Field(1.0, gt=0, description="The product is multiplied by this.")
    residual: bool = by_name(False, "Add the layer's input as well, by a share that is learned.")

    def factor_at(self, width: int) -> int:
        """The rows of the left factor at a stream of some width.

        Raises:
            RecipeError: they do not divide it.
        """
        factor = self.factor or next(rows for rows in range(isqrt(width), 0, -1) if width % rows == 0)
        if width % factor:
            raise RecipeError(
                f"`tune.adapter.factor` is {factor}, and does not divide the model's width, {width}",
                hint=f"choose a divisor of {width}, or leave it out",
            )
        return factor


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter in fp32.

    Raises:
        RecipeError: the factor does not fit the model, or it has no feed-forward layer to stand beside.
    """
    from sartor.adapters.wrapping.krona_b import KronaConfig
    from sartor.adapters.wrapping.tuner import attached

    register()
    factor = config.factor_at(model.config.get_text_config().hidden_size)
    targets = places.targets(model, "beside", norms=False)
    return attached(
        model, KronaConfig(target_modules=targets, factor=factor, scale=config.scale, residual=config.residual)
    )


def changes(base: Any, folder: Path) -> Changes:
    """Bottlenecks as wide as the stream and without activation: the whole product, then nothing."""
    import torch

    settings, modules = folders.read(folder)

    def whole(parts: folders.Parts) -> Bottleneck:
        product = settings["scale"] * torch.kron(parts["kron.left"], parts["kron.right"])
        same = torch.eye(len(product))
        if settings["residual"]:
            product = product + parts["kron.residual"] * same
        nothing = torch.zeros(len(product))
        return Bottleneck(product, nothing, same, nothing, activation="none", reads="input")

    return folders.changes_of(modules, whole)


def register() -> None:
    """PEFT lacks it."""
    from sartor.adapters import registration
    from sartor.adapters.wrapping import krona_b

    registration.register(krona_b.NAME, krona_b.KronaConfig, krona_b.KronaTuner)


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters.

    Raises:
        RecipeError: the factor does not fit the model.
    """
    config.factor_at(shape.hidden)
    return shape.num_layers * (2 * shape.hidden + config.residual)
