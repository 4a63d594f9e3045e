"""LeTS-style tuning: branches that compute a task's own attention from what the frozen model has computed already.

    a_l = Attention(norm(h_(l-1)); W + M ⊙ δ)        z = LSTM over depth (W_down a_1 … W_down a_L)
    answer = head(norm(h_L) + W_up z)

After Learn-to-Share (Fu et al. 2021, ICML, PMLR 139: fu21a), by its abstract; the paper itself was not at hand. From
it: a frozen backbone whose intermediate states the added parts reuse, so that all tasks share them; weights as W + δ;
and a mask M on δ that is chosen once, at the start. Ours: that M keeps the largest |g ⊙ W| of each weight, g being the
slope of the backbone's own loss on a few training batches; the LSTM, which runs over the layers of one token, so that
no token sees a later one; W_up, which begins at zero, so that it begins as the base. The paper's search for which
layers to share (NAS) is not there: `top_layers` says which have a branch.

δ is stored as it is, sparse: places and values. No gradient enters the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.beside.sizes import num_kept
from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.layers import top_layers
from sartor.adapters.method import Preset
from sartor.adapters.saving import export as export
from sartor.hub import ATTENTION
from sartor.types import Batch, Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "lets": Preset(
        summary="LeTS-style: sparse attention branches beside the frozen model, gathered over its depth",
        paper="PMLR 139, fu21a",
        served_by=("Sartor's engine",),
        mergeable=False,
        mixable=False,
        learning_rate=6.0,  # the ladder's: after 40 steps of SmolLM2 the loss is 0.8, and 2.3 at 2
        moves_base="its branches change single weights of attention",
        cuttable=False,
    )
}
PEFT_TYPES = ("SARTOR_LETS",)


class Config(Frozen):
    """More entries or layers learn more; the aggregator is small beside them."""

    density: float = Field(0.05, gt=0, le=1, description="The share of each attention weight's entries that change.")
    width: int = Field(64, ge=1, le=4096, description="The width of the LSTM that gathers the branches over depth.")
    top_layers: int = Field(0, ge=0, description="Branches only at so many decoder layers, from the top; 0: at all.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with branches; frozen base, masks of the largest weights until `HOOKS` choose others.

    Raises:
        RecipeError: the model has fewer layers than `top_layers`, or is not Llama-like.
    """
    from sartor.adapters.beside import branches, tuner

    tuner.refuse_others(model)
    chosen = top_layers(config.top_layers, model.config.get_text_config().num_hidden_layers)
    register()
    peft_config = branches.BranchesConfig(
        first_layer=chosen.start, density=config.density, width=config.width, task_type="CAUSAL_LM"
    )
    return tuner.attach(model, peft_config)


def calibrate(model: Any, config: Config, batches: Sequence[Batch]) -> None:
    """Choose the masks by the slope of some batches' loss."""
    from sartor.adapters.beside import branches

    branches.mask(model, batches)


def state(model: Any, config: Config) -> Mapping[str, Any]:
    """The masks."""
    from sartor.adapters.beside import branches

    return branches.masks(model)


def restore(model: Any, config: Config, tensors: Mapping[str, Any]) -> None:
    """The mirror of `state`."""
    from sartor.adapters.beside import branches

    branches.set_masks(model, tensors)


HOOKS = Hooks(num_batches=4, calibrate=calibrate, state=state, restore=restore)


def changes(base: Any, folder: Path) -> Changes:
    """It reads all layers and has keys of its own, so it is answered with alone."""
    return Changes(alone="it attends again at each layer, with a cache of its own")


def register() -> None:
    """Make it known to PEFT."""
    from sartor.adapters.beside import branches

    branches.register()


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: Σ ‖M‖₀, the ways into the LSTM and out of it, and the LSTM with its two biases.

    Raises:
        RecipeError: the model has fewer layers than `top_layers`.
    """
    sizes = shape.linear_sizes()
    masked = sum(num_kept(sizes[name][0] * sizes[name][1], config.density) for name in ATTENTION)
    gathering = 2 * shape.hidden * config.width + 8 * config.width**2 + 8 * config.width
    return len(top_layers(config.top_layers, shape.num_layers)) * masked + gathering
