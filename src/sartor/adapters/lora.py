"""LoRA: y = W x + (α/r) B A x with W frozen (Hu et al. 2021, arXiv 2106.09685, eq. 3). B starts at zero.

PEFT's method, with our forward (`ops/lora_linear.py`) registered through PEFT's own hook for custom layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.changes import Changes
from sartor.adapters.hooks import Hooks
from sartor.adapters.layers import top_layers
from sartor.adapters.low_rank import PLAIN, beyond_plain, changes_of, read_lora
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset
from sartor.adapters.saving import export as export
from sartor.adapters.saving import read_config
from sartor.errors import ModelError, RecipeError
from sartor.names import suggest
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "lora": Preset(
        summary="low-rank updates of the linear layers",
        paper="arXiv 2106.09685",
        served_by=("vLLM as is", "llama.cpp", "Sartor's engine"),
    ),
    # Rank and scale are LoRA's: with all layers adapted the rank hardly matters (QLoRA, fig. 4), and on a small base
    # r 64 takes more memory for Adam than four bits save (docs/why/quantisation.md). The paper: r 64, alpha 16.
    "qlora": Preset(
        summary="LoRA on a base whose weights have four bits",
        paper="arXiv 2305.14314",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        quantize="nf4",
    ),
}
PEFT_TYPES = ("LORA",)
HOOKS = Hooks()

#: Starts at which PEFT changes the base, or may, that it repeats exactly when it loads the adapter.
REMADE = ("pissa", "olora", "mica")
#: The linear layers of a Llama-like block: adapting all of them is what reaches full fine-tuning (QLoRA, §4).
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Config(Frozen):
    """`alpha` 0 means 2 r: the update's size then does not depend on the rank chosen."""

    r: int = Field(16, ge=1, le=1024, description="The rank of the update.")
    alpha: float = Field(0.0, ge=0, description="The scale of the update is alpha / r; 0 stands for 2 r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    targets: tuple[str, ...] = Field(("all-linear",), min_length=1, description="The layers that get an adapter.")
    top_layers: int = Field(
        0, ge=0, description="Adapters only in so many decoder layers, from the top: the backward ends there; 0: all."
    )

    @property
    def effective_alpha(self) -> float:
        return self.alpha or 2.0 * self.r


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter; fp32 adapter weights, frozen base.

    Raises:
        RecipeError: the model has fewer layers than `top_layers`.
    """
    from peft import LoraConfig, get_peft_model
    from torch import nn

    from sartor.ops.lora_linear import AugmentedLoraLinear

    # PEFT reads a word other than all-linear as a pattern for whole paths, so names go in as a list, even a single one;
    # where it is to leave out layers it takes no word at all.
    targets: Any = "all-linear" if config.targets == ("all-linear",) else list(config.targets)
    if config.top_layers and targets == "all-linear":
        parts = model.base_model.named_modules()
        targets = sorted({path.rpartition(".")[2] for path, part in parts if isinstance(part, nn.Linear)})
    num_layers = model.config.get_text_config().num_hidden_layers
    peft_config = LoraConfig(
        r=config.r,
        lora_alpha=config.effective_alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        layers_to_transform=list(top_layers(config.top_layers, num_layers)) if config.top_layers else None,
        task_type="CAUSAL_LM",
    )
    peft_config._register_custom_module({nn.Linear: AugmentedLoraLinear})
    return get_peft_model(model, peft_config, autocast_adapter_dtype=True)


def changes(base: Any, folder: Path) -> Changes:
    """Low-rank updates of linear layers, where the adapter is that and nothing else; else the weights that it gives.

    Raises:
        ModelError: it is no adapter of this base, or of a base that PEFT changed in a way which nobody can repeat.
    """
    config = read_config(folder)
    start = config.get("init_lora_weights", True)
    if start not in (*PLAIN["init_lora_weights"], *REMADE):
        raise ModelError(
            f"the adapter in {folder} changed its base before it was trained (init_lora_weights = {start!r})",
            hint="save it once more where it was trained, with PEFT's `path_initial_model_for_weight_conversion`",
        )
    if beyond_plain(config):
        return merged_changes(base, folder)
    return changes_of(base, read_lora(folder), folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: Σ r (inputs + outputs) over the adapted layers.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks, or the model has fewer than `top_layers`.
    """
    chosen = LINEAR_LAYERS if config.targets == ("all-linear",) else config.targets
    sizes = shape.linear_sizes()
    for name in chosen:
        if name not in sizes:
            raise RecipeError(
                f"`tune.adapter.targets` names {name!r}", hint=suggest(name, ("all-linear", *LINEAR_LAYERS))
            )
    per_layer = sum(config.r * sum(sizes[name]) for name in chosen)
    return per_layer * len(top_layers(config.top_layers, shape.num_layers))
