"""AttentionFusion: a token is answered by a mixture of what all layers say of it (Cao et al. 2022, NAACL Findings).

    α_ij = softmax_j(Q · V_ij)      c_i = Σ_j α_ij V_ij                                              (eq. 1 and 2)

V_ij is what leaves layer j at token i, the embeddings being j = 0; only the query Q is trained: `gated: false` is that,
d parameters. It answers otherwise than its base at the start, and a language model has nothing but its old head, for
which such a mixture is another language. So by default

    score_ij = Q · V̂_ij / √d + b_j,   V̂ of root mean square 1         c_i = V_iL + g (Σ_j α_ij V_ij - V_iL)

with Q = b = g = 0 at the start, which is the base to the bit: d + L + 2 parameters of L layers. A bias of +30 on the
last layer would be the base as well; but its softmax has slopes of e^-30 for all others, so it could not learn. Before
the final norm the states grow from layer to layer by orders of magnitude, and V̂ keeps Q from seeing just that.

It works beside the frozen backbone (`beside/`): no gradient enters it, and it cannot be merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset
from sartor.adapters.saving import export as export
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "attention_fusion": Preset(
        layers="without backward",
        summary="a learned mixture of the outputs of all layers, per token; a thousand parameters or so",
        paper="doi 10.18653/v1/2022.findings-naacl.64",
        served_by=("Sartor's engine",),
        mergeable=False,
        mixable=False,
        learning_rate=100.0,  # so few numbers must each go a long way; six times as much gains little (7.4 for 7.9)
    )
}
PEFT_TYPES = ("SARTOR_ATTENTION_FUSION",)
HOOKS = Hooks()


class Config(Frozen):
    """Nothing has to be chosen."""

    gated: bool = Field(
        True, description="Begin as the base, by a gate of zero, with a bias for each layer; false: as published."
    )


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a mixture before its final norm; frozen base.

    Raises:
        RecipeError: layers and norm are not where they are in Llama-like models.
    """
    from sartor.adapters.beside import fusion, tuner

    tuner.refuse_others(model)
    register()
    return tuner.attach(model, fusion.FusionConfig(gated=config.gated, task_type="CAUSAL_LM"))


def changes(base: Any, folder: Path) -> Changes:
    """It reads all layers, so it is answered with alone."""
    return Changes(alone="it reads what leaves every layer, which the engine does not keep")


def register() -> None:
    """Make it known to PEFT."""
    from sartor.adapters.beside import fusion

    fusion.register()


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: d; with the gate d + L + 2."""
    return shape.hidden + (shape.num_layers + 2 if config.gated else 0)
