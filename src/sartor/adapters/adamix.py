"""AdaMix: bottlenecks whose layers are mixtures of experts (Wang et al. 2022, arXiv 2205.12410, §3.1 to 3.4).

In each training forward every adapter draws one of its down- and, independently, one of its up-projections. Each batch
goes through the model twice, and the loss has beside that of the first pass ½ [KL(p₁‖p₂) + KL(p₂‖p₁)], each first
distribution held fixed. Otherwise, and in what is exported, there is one adapter: the mean of the experts. Of linear
experts that is the mean over all routes exactly; what the activation adds to that, consistency makes small.

The authors' recipe: after the feed-forward layer, the up-projection shared, four experts, m = 16 (RoBERTa-large).
Routes are drawn per micro-batch: another size of micro-batch is another, equally right, draw.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset
from sartor.adapters.saving import WEIGHTS
from sartor.adapters.wrapping import Activation, places
from sartor.adapters.wrapping import folder as folders
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "adamix": Preset(
        summary="small networks drawn from several in training and averaged afterwards; two passes a batch",
        paper="arXiv 2205.12410",
        served_by=("Sartor's engine",),
        mergeable=False,
        learning_rate=2.0,
    )
}
PEFT_TYPES = ("SARTOR_ADAMIX",)


class Config(Frozen):
    """With `consistency` 0 there is one pass only."""

    size: int = Field(16, ge=1, description="The width of the bottleneck.")
    experts: int = Field(4, ge=1, description="Experts of each layer of an adapter.")
    share_up: bool = Field(True, description="One up-projection for all experts.")
    place: Literal["both", "feed_forward"] = Field(
        "feed_forward", description="After attention and feed-forward layer both, or after the latter only."
    )
    activation: Activation = Field("gelu", description="What is between the two layers.")
    consistency: float = Field(1.0, ge=0, description="The weight of what two passes must agree on.")

    @property
    def up_experts(self) -> int:
        return 1 if self.share_up else self.experts


def consistency(config: Config) -> float:
    """The weight of the second pass."""
    return config.consistency


HOOKS = Hooks(couple=consistency)


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter in fp32.

    Raises:
        RecipeError: where the model's sublayers end is not known.
    """
    from sartor.adapters.wrapping.adamix import AdamixConfig
    from sartor.adapters.wrapping.tuner import attached

    register()
    targets = places.targets(model, config.place, norms=False)
    return attached(
        model,
        AdamixConfig(
            target_modules=targets,
            size=config.size,
            place=config.place,
            activation=config.activation,
            down_experts=config.experts,
            up_experts=config.up_experts,
        ),
    )


def export(model: Any, folder: Path) -> None:
    """The mean of the experts, as an adapter that has one: the PEFT files. A classifier's heads are as they are."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = replace(model.active_peft_config, down_experts=1, up_experts=1, inference_mode=True)
    config.save_pretrained(folder)
    tensors = {name: item.detach().cpu() for name, item in get_peft_model_state_dict(model).items()}
    mixed = {name: item.mean(0, keepdim=True) for name, item in tensors.items() if ".adapter_" in name}
    save_file({**tensors, **mixed}, folder / WEIGHTS, metadata={"format": "pt"})


def changes(base: Any, folder: Path) -> Changes:
    """Bottlenecks, each of the one expert that is left."""
    settings, modules = folders.read(folder)
    one = {module: {name: item[0] for name, item in parts.items()} for module, parts in modules.items()}
    return folders.changes_of(one, partial(folders.bottleneck, settings))


def register() -> None:
    """PEFT lacks it."""
    from sartor.adapters import registration
    from sartor.adapters.wrapping import adamix

    registration.register(adamix.NAME, adamix.AdamixConfig, adamix.AdamixTuner)


def count(shape: Shape, config: Config) -> int:
    """Parameters that are trained, of all experts; what is exported has those of one."""
    down, up = shape.hidden * config.size + config.size, shape.hidden * config.size + shape.hidden
    return places.num_adapters(shape, config.place) * (config.experts * down + config.up_experts * up)
