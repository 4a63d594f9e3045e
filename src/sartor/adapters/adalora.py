"""AdaLoRA: y = W x + s P Λ Q x, where those entries of Λ that matter least are set to zero while training goes on.

Zhang et al. 2023, arXiv 2303.10512. Ranks begin at b(0) = `init_r` a layer; from step tᵢ to T - t_f the budget falls to
b(T) = `target_r` a layer on average (eq. 12: b(t) = b(T) + (b(0) - b(T)) (1 - (t - tᵢ)/(T - t_f - tᵢ))³), and each
`delta_t` steps the entries beyond it go, by their sensitivity times its uncertainty (eq. 8 to 11). P and Q are drawn to
orthogonality by a penalty (eq. 4). PEFT's method; what its own trainer callback does is done by `HOOKS`. PEFT adds the
penalty only to a loss that the model computes itself, which ours does not.

Shapes: R rank · K inputs · N outputs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from sartor.adapters import saving
from sartor.adapters import targets as layers
from sartor.adapters.changes import Changes, LowRank
from sartor.adapters.guards import peft_model
from sartor.adapters.hooks import Hooks
from sartor.adapters.low_rank import alpha_of, beyond_plain, by_layer, changes_of
from sartor.adapters.merging import merged_changes
from sartor.adapters.method import Preset
from sartor.adapters.saving import ADAPTER
from sartor.types import Frozen

if TYPE_CHECKING:
    import torch

    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "adalora": Preset(
        summary="low-rank updates whose ranks go to the layers that need them, while training goes on",
        paper="arXiv 2303.10512",
        served_by=("vLLM after conversion", "vLLM after merge", "llama.cpp", "Sartor's engine"),
        learning_rate=10.0,  # P and Q begin small (0.02): after 40 steps of SmolLM2 the loss is 0.5, and 5.8 at 2
    )
}
PEFT_TYPES = ("ADALORA",)
KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[ABE])")
#: PEFT divides by the rank plus this.
EPSILON = 1e-5


class Config(Frozen):
    """PEFT's ranks, and the shares of a run that the paper's schedules have: about a tenth, and about a half.

    PEFT keeps `init_r` in the type of the base, and in bf16 whole numbers end at 256.
    """

    init_r: int = Field(12, ge=2, le=256, description="The rank of each layer at first.")
    target_r: int = Field(8, ge=1, le=256, description="The rank of a layer at last, on average.")
    alpha: float = Field(0.0, ge=0, description="The scale of the update is alpha / init_r; 0 stands for 2 init_r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    targets: tuple[str, ...] = Field(layers.ALL, min_length=1, description="The layers that get an adapter.")
    tinit: float = Field(0.1, ge=0, lt=1, description="The share of the run before ranks fall.")
    tfinal: float = Field(0.5, ge=0, lt=1, description="The share of the run after they have fallen.")
    delta_t: int = Field(10, ge=1, description="Ranks fall each so many steps.")
    orth_reg_weight: float = Field(0.5, ge=0, description="The weight of the penalty on what is not orthogonal.")

    @model_validator(mode="after")
    def _ranks_can_fall(self) -> Config:
        if self.target_r >= self.init_r:
            raise ValueError(f"`target_r` {self.target_r} is not less than `init_r` {self.init_r}: no rank could fall")
        if self.tinit + self.tfinal >= 1:
            raise ValueError("`tinit` and `tfinal` leave no share of the run for ranks to fall in")
        return self


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new adapter. Its schedule is set when the length of the run is known."""
    from peft import AdaLoraConfig

    made = peft_model(
        model,
        AdaLoraConfig(
            init_r=config.init_r,
            target_r=config.target_r,
            lora_alpha=config.alpha or 2.0 * config.init_r,
            lora_dropout=config.dropout,
            target_modules=layers.for_peft(config.targets),
            deltaT=config.delta_t,
            orth_reg_weight=config.orth_reg_weight,
            total_step=1,
        ),
    )
    for name, item in made.named_parameters():
        if (
            ".ranknum." in name
        ):  # PEFT makes a trained weight of it on a bf16 base, by the way in which it makes it fp32
            item.requires_grad_(False)
    return made


def export(model: Any, folder: Path) -> None:
    """Write the ranks that are left. Before the last of them fell, all: PEFT would drop some that have grown again."""
    settings = copy.copy(model.peft_config[ADAPTER])
    entries = dict(model.base_model.model.named_parameters())
    dropped = [entries[name][~mask] for name, mask in _kept(model).items()]
    if any(bool(item.any()) for item in dropped):
        settings.rank_pattern = None
    saving.export(model, folder, settings)


def changes(base: Any, folder: Path) -> Changes:
    """Low-rank updates: P times the scale, and Λ Q; nothing for layers whose rank fell to zero.

    Raises:
        ModelError: it is no adapter of this base.
    """
    config = saving.read_config(folder)
    if beyond_plain(config):
        return merged_changes(base, folder)
    alpha, rank = alpha_of(config, folder), config["init_r"]
    parts = by_layer(saving.read_weights(folder), KEY, "ABE", folder)
    updates = {
        layer: LowRank(own["E"] * own["A"], own["B"] * ((alpha or len(own["A"])) / (rank + EPSILON)))
        for layer, own in parts.items()
        if len(own["A"])
    }
    return changes_of(base, updates, folder)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters at first: Σ init_r (inputs + outputs + 1) over the adapted layers.

    Raises:
        RecipeError: a target is no linear layer of the model's blocks.
    """
    sizes = layers.sizes_of(config.targets, shape)
    return shape.num_layers * sum(config.init_r * (inputs + outputs + 1) for inputs, outputs in sizes)


def _penalty(model: Any, config: Config) -> torch.Tensor:
    """The mean of ‖Pᵀ P - I‖ and ‖Q Qᵀ - I‖ over all layers, weighted: as PEFT and the authors' code have it."""
    import torch

    found = []
    for name, weight in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            gram_RR = weight @ weight.T if ".lora_A." in name else weight.T @ weight
            found.append(torch.linalg.matrix_norm(gram_RR - torch.eye(len(gram_RR), device=gram_RR.device)))
    return config.orth_reg_weight * torch.stack(found).mean()


def _after_step(model: Any, config: Config, step: int, num_steps: int) -> None:
    """PEFT's own allocation. Ranks need the sensitivity of one step before they fall for the last time."""
    settings = model.peft_config[ADAPTER]
    end = max(2, num_steps - round(config.tfinal * num_steps))
    settings.tinit, settings.tfinal = min(round(config.tinit * num_steps), end - 1), num_steps - end
    settings.total_step = num_steps
    model.base_model.update_and_allocate(step)


def _state(model: Any, config: Config) -> Mapping[str, torch.Tensor]:
    """Running means of sensitivity and its uncertainty, and which entries were left the last time."""
    allocator = model.base_model.rankallocator
    sensitivity = {f"sensitivity:{name}": item for name, item in allocator.exp_avg_ipt.items()}
    uncertainty = {f"uncertainty:{name}": item for name, item in allocator.exp_avg_unc.items()}
    return sensitivity | uncertainty | {f"kept:{name}": mask for name, mask in _kept(model).items()}


def _restore(model: Any, config: Config, tensors: Mapping[str, torch.Tensor]) -> None:
    import torch

    allocator = model.base_model.rankallocator
    allocator.reset_ipt()
    kept = {}
    for key, item in tensors.items():
        kind, _, name = key.partition(":")
        if kind == "kept":
            kept[name] = item.tolist()
            continue
        means = allocator.exp_avg_ipt if kind == "sensitivity" else allocator.exp_avg_unc
        means[name] = item.to(next(model.parameters()).device)
        allocator.ipt[name] = torch.zeros_like(means[name])  # it says that there are means; the next step makes its own
    model.peft_config[ADAPTER].rank_pattern = kept or None


def _kept(model: Any) -> dict[str, torch.Tensor]:
    """Which entries of Λ were left when ranks last fell, by the name of the layer's Λ."""
    import torch

    pattern = model.peft_config[ADAPTER].rank_pattern or {}
    return {name: torch.tensor(mask) for name, mask in pattern.items()}


HOOKS = Hooks(penalty=_penalty, after_step=_after_step, state=_state, restore=_restore)
