"""LoRA: y = W x + s B A x with W frozen, s = α/r, B zero at the start (Hu et al. 2021, arXiv 2106.09685, eq. 3).

Its relatives have another scale (rsLoRA: α/√r), another learning rate for B (LoRA+), another start (`starts.py`), or
another norm: DoRA gives each row of W + s B A a length of its own (Liu et al. 2024, arXiv 2402.09353, eq. 5).
PEFT's methods, with our forward (`ops/lora_linear.py`) registered through PEFT's own hook for custom layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from sartor.adapters import saving
from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.layers import top_layers
from sartor.adapters.low_rank import PLAIN, beyond_plain, changes_of, dora_changes, read_lora
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset, Server, by_name
from sartor.errors import ModelError, RecipeError
from sartor.types import Batch, Frozen

if TYPE_CHECKING:
    import torch

    from sartor.hub import Shape

TRAINS = "adapter"
SERVED_BY: tuple[Server, ...] = ("vLLM as is", "llama.cpp", "Sartor's engine")
#: What is saved is plain LoRA all the same (`starts.py`); but a quantised base has no room for what is taken out of it.
MOVED = "its linear layers lose the update that the adapter begins with"
PRESETS = {
    "lora": Preset(
        layers="hand-written",
        summary="low-rank updates of the linear layers",
        paper="arXiv 2106.09685",
        served_by=SERVED_BY,
    ),
    # Rank and scale are LoRA's: with all layers adapted the rank hardly matters (QLoRA, fig. 4), and on a small base
    # r 64 takes more memory for Adam than four bits save (docs/why/quantisation.md). The paper: r 64, alpha 16.
    "qlora": Preset(
        layers="hand-written",
        summary="LoRA on a base whose weights have four bits",
        paper="arXiv 2305.14314",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        quantize="nf4",
    ),
    "rslora": Preset(
        layers="hand-written",
        summary="LoRA with a scale that lets high ranks learn: alpha over the root of the rank",
        paper="arXiv 2312.03732",
        served_by=SERVED_BY,
        settings={"use_rslora": True},
    ),
    "lora_plus": Preset(
        layers="hand-written",
        summary="LoRA whose B learns 16 times as fast as its A",
        paper="arXiv 2402.12354",
        served_by=SERVED_BY,
        settings={"lr_ratio": 16.0},
        learning_rate=0.25,  # A's; B's is 4: their geometric mean is LoRA's
    ),
    "dora": Preset(
        summary="LoRA for the directions of the weights' rows, and a length for each",
        paper="arXiv 2402.09353",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        settings={"use_dora": True},
    ),
    "pissa": Preset(
        layers="hand-written",
        summary="LoRA that begins at the principal components of the weights",
        paper="arXiv 2404.02948",
        served_by=SERVED_BY,
        settings={"init": "pissa"},
        learning_rate=0.5,  # as for olora, to a smaller degree
        moves_base=MOVED,
    ),
    "olora": Preset(
        layers="hand-written",
        summary="LoRA that begins at an orthonormal basis of the weights' columns",
        paper="arXiv 2406.01775",
        served_by=SERVED_BY,
        settings={"init": "olora"},
        learning_rate=0.2,  # A and B begin large: at LoRA's rate SmolLM2 learns as much, and forgets all else
        moves_base=MOVED,
    ),
    "eva": Preset(
        layers="hand-written",
        summary="LoRA whose A begins at the directions in which the layers' inputs vary most",
        paper="arXiv 2410.07170",
        served_by=SERVED_BY,
        settings={"init": "eva"},
    ),
    "loftq": Preset(
        layers="hand-written",
        summary="LoRA that begins at what four bits lose of the weights",
        paper="arXiv 2310.08659",
        served_by=("vLLM after merge", "llama.cpp", "Sartor's engine"),
        settings={"init": "loftq"},
        quantize="nf4",
    ),
}
PEFT_TYPES = ("LORA",)

#: PEFT's word for each start. PiSSA's decomposition in four subspace iterations takes seconds where a whole one takes
#: minutes; what it misses stays in the base.
INIT: Mapping[str, Any] = {"lora": True, "pissa": "pissa_niter_4", "olora": "olora", "eva": "eva", "loftq": True}
#: Starts that take something out of the base; LoftQ only out of one that is not in four bits.
MOVING = ("pissa", "olora", "loftq")
#: Starts at which PEFT changes the base, or may, that it repeats exactly when it loads the adapter.
REMADE = ("pissa", "olora", "mica")


class Config(Frozen):
    """`alpha` 0 makes the scale 2 whatever the rank; with `use_rslora` it makes it 2 at rank 16."""

    r: int = Field(16, ge=1, le=1024, description="The rank of the update.")
    alpha: float = Field(0.0, ge=0, description="The scale of the update is alpha / r; 0 stands for 2 r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    targets: tuple[str, ...] = Field(layers.ALL, min_length=1, description="The layers that get an adapter.")
    top_layers: int = Field(
        0, ge=0, description="Adapters only in so many decoder layers, from the top: the backward ends there; 0: all."
    )
    use_rslora: bool = Field(False, description="The scale is alpha / √r; an alpha of 0 then stands for 8.")
    lr_ratio: float = Field(1.0, ge=1, description="LoRA+: the learning rate of B, as a multiple of that of A.")
    init: Literal["lora", "pissa", "olora", "eva", "loftq"] = by_name("lora", "How A and B begin.")
    use_dora: bool = by_name(False, "DoRA: each row of the adapted weight has a length of its own.")

    @property
    def effective_alpha(self) -> float:
        return self.alpha or (8.0 if self.use_rslora else 2.0 * self.r)

    @property
    def scale(self) -> float:
        return self.effective_alpha / (self.r**0.5 if self.use_rslora else self.r)

    @model_validator(mode="after")
    def _dora_keeps_its_base(self) -> Config:
        if self.use_dora and self.init in MOVING:
            raise ValueError(f"DoRA cannot begin as {self.init}: it needs the base's own rows for their lengths")
        return self


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter; fp32 adapter weights, frozen base.

    Raises:
        RecipeError: the model has fewer layers than `top_layers`.
    """
    from peft import EvaConfig, LoraConfig
    from torch import nn

    from sartor.adapters import starts
    from sartor.ops.lora_linear import AugmentedLoraLinear

    targets = layers.for_peft(config.targets)
    if config.top_layers and targets == "all-linear":  # where PEFT is to leave out layers it takes no word
        parts = model.base_model.named_modules()
        targets = sorted({path.rpartition(".")[2] for path, part in parts if isinstance(part, nn.Linear)})
    num_layers = model.config.get_text_config().num_hidden_layers
    peft_config = LoraConfig(
        r=config.r,
        lora_alpha=config.effective_alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        layers_to_transform=list(top_layers(config.top_layers, num_layers)) if config.top_layers else None,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=INIT[config.init],
        eva_config=EvaConfig(rho=1.0) if config.init == "eva" else None,  # the same rank for all layers
    )
    moves_base = config.init in MOVING and not starts.is_packed(model)
    peft_config._register_custom_module({nn.Linear: starts.MovedLoraLinear if moves_base else AugmentedLoraLinear})
    found = {}
    if config.init == "loftq":
        found = starts.four_bit_starts(model, peft_config, config.scale)
    made = peft_model(model, peft_config)
    starts.begin(made, found)
    return made


def export(model: Any, folder: Path) -> None:
    """Write plain LoRA on the base as it was, whatever the start; DoRA as PEFT writes it."""
    from sartor.adapters.starts import as_plain_lora

    saving.export(model, folder, *as_plain_lora(model))


def changes(base: Any, folder: Path) -> Changes:
    """Low-rank updates of linear layers, with DoRA's scales; the weights that it gives, where the adapter is more.

    Raises:
        ModelError: it is no adapter of this base, or of a base that PEFT changed in a way which nobody can repeat.
    """
    config = saving.read_config(folder)
    start = config.get("init_lora_weights", True)
    if start not in (*PLAIN["init_lora_weights"], *REMADE):
        raise ModelError(
            f"the adapter in {folder} changed its base before it was trained (init_lora_weights = {start!r})",
            hint="save it once more where it was trained, with PEFT's `path_initial_model_for_weight_conversion`",
        )
    if start in REMADE or beyond_plain(config | {"use_dora": False}):
        return merged_changes(base, folder)
    return dora_changes(base, folder) if config.get("use_dora") else changes_of(base, read_lora(folder), folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: Σ r (inputs + outputs) over the adapted layers, and DoRA's lengths, one for each output.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks, the model has fewer than `top_layers`, or a
            layer is too small for a start at so many directions.
    """
    sizes = layers.sizes_of(config.targets, shape)
    smallest = min(min(pair) for pair in sizes)
    if config.init != "lora" and config.r > smallest:
        raise RecipeError(
            f"`tune.adapter.r` is {config.r}, and a layer to adapt has {smallest} inputs or outputs",
            hint=f"at most {smallest} for {config.init}, which begins at as many directions of it; or choose lora",
        )
    per_layer = sum(config.r * sum(pair) + (pair[1] if config.use_dora else 0) for pair in sizes)
    return per_layer * len(top_layers(config.top_layers, shape.num_layers))


def _calibrate(model: Any, config: Config, batches: Sequence[Batch]) -> None:
    from sartor.adapters.starts import look_at_data

    if config.init == "eva":
        look_at_data(model, batches)


def _rates(model: Any, config: Config) -> dict[str, float]:
    """LoRA+: B learns faster (Hayou et al. 2024, §4)."""
    if config.lr_ratio == 1:
        return {}
    return {name: config.lr_ratio for name, weight in model.named_parameters() if ".lora_B." in name}


def _state(model: Any, config: Config) -> Mapping[str, torch.Tensor]:
    from sartor.adapters.starts import state

    return state(model)


def _restore(model: Any, config: Config, tensors: Mapping[str, torch.Tensor]) -> None:
    from sartor.adapters.starts import restore

    restore(model, tensors)


HOOKS = Hooks(num_batches=8, calibrate=_calibrate, rates=_rates, state=_state, restore=_restore)
