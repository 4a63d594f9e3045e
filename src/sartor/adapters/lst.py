"""Ladder Side-Tuning: a narrow network beside the frozen one reads what leaves its layers (Sung et al. 2022, §3.2).

    s_0 = W_0 e        s_l = Block_l(μ_l s_(l-1) + (1 - μ_l) W_l h_l)        μ_l = sigmoid(α_l / T), T = 0.1

The side network has 1/r of the widths and begins as the backbone pruned to them (`beside/pruning.py`): by |w|, or with
`importance: fisher` by g² on some training batches. Its layers are of the backbone's own class; in generation its keys
are in the same cache. It answers by W_up norm(s_L) before the frozen head. The paper gives the head nothing else; here
that is added to the backbone's own answer, and W_up begins at zero, so that it begins as the base: `add: false` is as
published. A T5, on which the paper's numbers are, has one beside each stack; the second attends to the first.

No gradient enters the backbone and nothing of it is kept for a backward: that is the point of it, memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sartor.adapters.beside.sizes import narrowed
from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset
from sartor.adapters.saving import export as export
from sartor.errors import RecipeError
from sartor.types import Batch, Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "lst": Preset(
        layers="without backward",
        summary="a narrow network beside the frozen one: nothing of the base is kept for the backward",
        paper="arXiv 2206.06522",
        served_by=("Sartor's engine",),
        mergeable=False,
        mixable=False,
        learning_rate=6.0,  # 3e-3, the paper's
        moves_base="its side network begins as the base pruned by the gradients of its weights",
    )
}
PEFT_TYPES = ("SARTOR_LST",)


class Config(Frozen):
    """`r` divides both widths of the model; heads become as narrow, but stay of an even size."""

    r: int = Field(8, ge=2, le=64, description="The side network has 1/r of the model's widths.")
    drop_layers: tuple[int, ...] = Field((), description="Layers without a side layer, counted from 0 at the bottom.")
    add: bool = Field(True, description="Add to the model's own answer; false: the side network alone, as published.")
    importance: Literal["magnitude", "fisher"] = Field(
        "magnitude", description="What the side network keeps of the model: the largest weights, or the most sensitive."
    )


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a side network; frozen base.

    Raises:
        RecipeError: `r` or `drop_layers` does not suit the model, or the model is not Llama-like.
    """
    from sartor.adapters.beside import ladder, tuner

    both = model.config.is_encoder_decoder
    if not both:
        tuner.refuse_others(model)
    sizes = model.config.get_text_config()
    _refuse_wrong(config, sizes.num_hidden_layers, sizes.hidden_size, sizes.d_ff if both else sizes.intermediate_size)
    register()
    peft_config = ladder.LadderConfig(
        reduction=config.r,
        drop_layers=list(config.drop_layers),
        add=config.add,
        task_type="SEQ_2_SEQ_LM" if both else "CAUSAL_LM",
    )
    return tuner.attach(model, peft_config)


def _refuse_wrong(config: Config, num_layers: int, hidden: int, inner: int) -> None:
    if hidden % config.r or inner % config.r:
        fitting = [str(r) for r in range(2, 65) if hidden % r == 0 and inner % r == 0]
        raise RecipeError(
            f"`tune.adapter.r` is {config.r}, and the model's widths are {hidden} and {inner}",
            hint=f"one that divides both: {', '.join(fitting)}" if fitting else "no r divides both: choose lora",
        )
    if not all(0 <= number < num_layers for number in config.drop_layers) or len(set(config.drop_layers)) >= num_layers:
        raise RecipeError(
            f"`tune.adapter.drop_layers` is {list(config.drop_layers)}, and the model has {num_layers} layers",
            hint=f"numbers from 0 to {num_layers - 1}, and not all of them",
        )


def calibrate(model: Any, config: Config, batches: Sequence[Batch]) -> None:
    """Prune anew by the Fisher information of some batches, where that is asked for."""
    if config.importance == "magnitude":
        return
    from sartor.adapters.beside import pruning, tuner

    decoder = model.get_base_model().base_model
    norm = tuner.norm_of(model)
    pruning.begin(norm.network, decoder, norm.base_layer, pruning.fisher(model, decoder, batches))


HOOKS = Hooks(num_batches=8, calibrate=calibrate)


def changes(base: Any, folder: Path) -> Changes:
    """It reads all layers and has keys of its own, so it is answered with alone."""
    return Changes(alone="it is a network beside the model, with a cache of its own")


def register() -> None:
    """Make it known to PEFT."""
    from sartor.adapters.beside import ladder

    ladder.register()


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: side layers, their way in (one for the embeddings), gates, norm, the way out.

    Raises:
        RecipeError: `r` or `drop_layers` does not suit the model.
    """
    _refuse_wrong(config, shape.num_layers, shape.hidden, shape.inner)
    side = narrowed(shape, config.r)
    down, up = (shape.hidden + 1) * side.hidden, (side.hidden + 1) * shape.hidden
    blocks = (shape.num_layers - len(set(config.drop_layers))) * (sum(side.block_sizes().values()) + down)
    return blocks + down + shape.num_layers + side.hidden + up
