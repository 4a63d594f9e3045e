"""WARP: embeddings of virtual tokens are trained, and what the head makes of the words that answers consist of.

Hambardzumyan et al. 2021 (arXiv 2101.00121), §3: p(y|x) ∝ exp(v_y · f(x) + b_y), where f is what a masked language
model's head reads at `<mask>`, v_y a trained vector for each class (its verbaliser), and prompts stand around the text.
Of K prompts and C classes (K + C) D + C numbers are trained.

A decoder has no mask and writes its answer, so three things differ here. f(x) is what the head reads at any place of
the answer. The C verbalisers belong to the C tokens that the answers of the training data have most often: for classes
these are the words of their names; all other tokens keep the head's own logits, and the sum goes over the whole
vocabulary, so that any text can still be written. The prompts stand before the text, and nowhere between.

Prompts begin as words of the vocabulary, verbalisers as the head's own rows without bias (the paper's WARP_init).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.changes import Changes, Prompt, Rows
from sartor.adapters.hooks import Hooks
from sartor.adapters.saving import export as export
from sartor.adapters.saving import read_weights
from sartor.adapters.virtual import SAVED, live_prompt, num_virtual, preset
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape
    from sartor.types import Batch

TRAINS = "adapter"
PRESETS = {
    "warp": preset(
        summary="virtual tokens before the text, and the head's rows of the words of answers",
        paper="arXiv 2101.00121",
        learning_rate=60.0,
    )
}
PEFT_TYPES = ("SARTOR_WARP",)


class Config(Frozen):
    """K tokens and C verbalisers."""

    tokens: int = Field(20, ge=1, le=1000, description="Virtual tokens before the text.")
    verbalisers: int = Field(32, ge=1, le=1000, description="Tokens of answers whose rows of the head are trained.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with new virtual tokens and verbalisers; `calibrate` says of which words."""
    from peft import get_peft_model

    from sartor.adapters.virtual.verbaliser import WarpConfig, register

    register()
    peft_config = WarpConfig(
        num_virtual_tokens=config.tokens, prompt_tuning_init="SAMPLE_VOCAB", num_verbalisers=config.verbalisers
    )
    return get_peft_model(model, peft_config)


def calibrate(model: Any, config: Config, batches: Sequence[Batch]) -> None:
    """Give the verbalisers to the tokens that answers have most often; of equals, to the lower ids."""
    import numpy as np
    import torch

    if not batches:
        return
    answers = np.concatenate([batch.targets_T[batch.weights_T > 0] for batch in batches])
    head_VD = model.get_base_model().get_output_embeddings().weight
    counts_V = np.bincount(answers, minlength=head_VD.shape[0])
    chosen_C = np.argsort(-counts_V, kind="stable")[: config.verbalisers]
    model.prompt_encoder["default"].choose(torch.from_numpy(np.sort(chosen_C)), head_VD)


def live_rows(model: Any, config: Config) -> Rows:
    """The verbalisers as they are now."""
    encoder = model.prompt_encoder["default"]
    return Rows(encoder.tokens_C, encoder.rows_CD, encoder.bias_C)


def rates(model: Any, config: Config) -> dict[str, float]:
    """Rows of the head act on the answer at once: twice LoRA's rate, 0.001 in the paper, where tokens want 60 times."""
    return {f"prompt_encoder.default.{name}": 1 / 30 for name in ("rows_CD", "bias_C")}


def state(model: Any, config: Config) -> Mapping[str, Any]:
    """Whose rows they are: batches that are cut otherwise may choose other tokens."""
    return {"tokens_C": model.prompt_encoder["default"].tokens_C}


def restore(model: Any, config: Config, tensors: Mapping[str, Any]) -> None:
    """The mirror of `state`."""
    model.prompt_encoder["default"].tokens_C.copy_(tensors["tokens_C"])


HOOKS = Hooks(
    num_batches=64,
    calibrate=calibrate,
    rates=rates,
    state=state,
    restore=restore,
    num_virtual=num_virtual,
    beginning=live_prompt,
    head_rows=live_rows,
)


def changes(base: Any, folder: Path) -> Changes:
    """Virtual tokens, and rows of the head."""
    from sartor.adapters.virtual.verbaliser import BIAS, ROWS, TOKENS

    saved, head = read_weights(folder), base.get_output_embeddings()
    name = next(name for name, module in base.named_modules() if module is head)
    return Changes({name: (Rows(saved[TOKENS], saved[ROWS], saved[BIAS]),)}, beginning=Prompt(saved[SAVED]))


def register() -> None:
    """Make it known to PEFT."""
    from sartor.adapters.virtual import verbaliser

    verbaliser.register()


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: (K + C) D + C."""
    return (config.tokens + config.verbalisers) * shape.hidden + config.verbalisers
