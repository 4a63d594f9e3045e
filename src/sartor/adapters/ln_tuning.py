"""LN tuning: only the norms are trained, their gains and, where they have them, biases.

Zhao et al. 2023, arXiv 2312.11420. PEFT's method, which swaps a copy of each norm in. For some models (Qwen) PEFT's own
choice leaves out most norms; ours are all of them. It leaves the copies in the base's format; here they are fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.adapters.changes import Changes, Weight
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset
from sartor.adapters.saving import by_module
from sartor.adapters.saving import export as export
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "ln_tuning": Preset(
        summary="the gains of the norms",
        paper="arXiv 2312.11420",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        learning_rate=20.0,  # a gain is near one and moves all tokens alike: at LoRA's rate it learns nothing
    )
}
PEFT_TYPES = ("LN_TUNING",)
HOOKS = Hooks()


class Config(Frozen):
    """There is nothing to choose: all norms are trained."""


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model whose norms are copies in fp32, which give what they give in the base's format."""
    from peft import LNTuningConfig
    from peft.tuners.ln_tuning.layer import LNTuningLayer

    paths = [path for path, part in model.named_modules() if type(part).__name__.endswith("Norm")]
    made = peft_model(model, LNTuningConfig(target_modules=sorted({path.rpartition(".")[2] for path in paths})))
    for layer in made.modules():
        if isinstance(layer, LNTuningLayer):
            _widen(layer.ln_tuning_layers["default"])
    return made


def _widen(norm: Any) -> None:
    """Hold a norm's weights in fp32. It computes with them, and rounds what it gives once."""
    import torch

    dtype = norm.weight.dtype
    norm.to(torch.float32)
    norm.register_forward_pre_hook(lambda part, inputs: (inputs[0].float(), *inputs[1:]))
    norm.register_forward_hook(lambda part, inputs, output: output.to(dtype))


def changes(base: Any, folder: Path) -> Changes:
    """Other weights of the norms."""
    norms = by_module(folder, ".ln_tuning_layers.")
    return Changes({name: (Weight(own["weight"], own.get("bias")),) for name, own in norms.items()})


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: the widths of all norms."""
    return shape.num_layers * sum(shape.norm_sizes().values()) + shape.hidden
