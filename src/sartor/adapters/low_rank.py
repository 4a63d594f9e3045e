"""Low-rank updates of linear layers, read from folders as PEFT writes them: what LoRA and its relatives share.

Shapes: R rank · K inputs · N outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.adapters.changes import Change, Changes, LowRank, Scale, Weight
from sartor.adapters.saving import CONFIG, DAMAGED, WEIGHTS, read_config, read_weights
from sartor.errors import ModelError

if TYPE_CHECKING:
    import torch

#: Settings under which LoRA is y = W x + s B A x and nothing else, as are those of its relatives in PEFT.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "use_bdlora": (False, None),
    "use_qalora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),  # the others change the base as well
}
LORA_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
LENGTH = "magnitude_vector"
DORA_KEY = re.compile(rf"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB]|{LENGTH})(\.weight)?")


def beyond_plain(config: Mapping[str, Any]) -> str:
    """The first setting under which an adapter is more than a low-rank update; "" where it is just that."""
    return next((name for name, plain in PLAIN.items() if config.get(name, plain[0]) not in plain), "")


def read_lora(folder: Path) -> dict[str, LowRank]:
    """The updates of a plain LoRA, by the name of the layer in the base model.

    Raises:
        ModelError: the folder holds no adapter, a damaged one, or one that is no LoRA on linear layers.
    """
    return _updates(by_layer(read_weights(folder), LORA_KEY, "AB", folder), folder)


def dora_changes(base: Any, folder: Path) -> Changes:
    """DoRA, m ⊙ V / ‖V‖ with V = W + s B A and a length for each row: an update, and a scale of what comes out.

    Where there is a bias, which is not scaled, it is another weight.

    Raises:
        ModelError: the folder holds no DoRA on linear layers of this base.
    """
    parts = by_layer(read_weights(folder), DORA_KEY, ("A", "B", LENGTH), folder)
    updates = changes_of(base, _updates(parts, folder), folder).modules
    modules = dict(base.named_modules())
    found: dict[str, tuple[Change, ...]] = {}
    for layer, (update,) in updates.items():
        assert isinstance(update, LowRank)
        weight_NK = modules[layer].weight.detach().float() + update.up_NR @ update.down_RK
        scale_N = parts[layer][LENGTH] / weight_NK.norm(dim=1)
        bare = modules[layer].bias is None
        found[layer] = (update, Scale(output_N=scale_N)) if bare else (Weight(scale_N[:, None] * weight_NK),)
    return Changes(found)


def by_layer(
    weights: Mapping[str, torch.Tensor], key: re.Pattern[str], parts: Sequence[str], folder: Path
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each layer in fp32, by their parts. `key` finds `layer` and `part` in the name of a tensor.

    Raises:
        ModelError: there is another tensor, or a layer lacks a part.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in weights.items():
        match = key.fullmatch(name)
        if match is None:
            raise ModelError(
                f"{folder / WEIGHTS} holds {name!r}, which is no low-rank update of a linear layer",
                hint="merge the adapter into its base, or sample with another engine",
            )
        found.setdefault(match["layer"], {})[match["part"]] = weight.float()
    for layer, own in found.items():
        if missing := set(parts) - own.keys():
            raise ModelError(f"{folder / WEIGHTS} has {min(own)} of {layer} and no {min(missing)}", hint=DAMAGED)
    return found


def changes_of(base: Any, updates: Mapping[str, LowRank], folder: Path) -> Changes:
    """Low-rank updates as changes of a base.

    Raises:
        ModelError: the base has no such layer, or one of another size: the adapter is of another base.
    """
    modules = dict(base.named_modules())
    for layer, update in updates.items():
        wanted = (update.up_NR.shape[0], update.down_RK.shape[1])
        there = (modules[layer].out_features, modules[layer].in_features) if layer in modules else ()
        if there != wanted:
            what = f"one of {there[0]} x {there[1]}" if there else "none"
            raise ModelError(
                f"the adapter in {folder} changes a {layer} of {wanted[0]} x {wanted[1]}, and the base has {what}",
                hint="use it with the base that it was trained on",
            )
    return Changes({layer: (update,) for layer, update in updates.items()})


def alpha_of(config: Mapping[str, Any], folder: Path) -> float:
    """`lora_alpha`.

    Raises:
        ModelError: it is not there, or no number.
    """
    try:
        return float(config["lora_alpha"])
    except KeyError as error:
        raise ModelError(f"{folder / CONFIG} lacks {error}", hint=DAMAGED) from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read: {error}", hint=DAMAGED) from error


def _updates(parts: Mapping[str, Mapping[str, torch.Tensor]], folder: Path) -> dict[str, LowRank]:
    config = read_config(folder)
    alpha = alpha_of(config, folder)
    return {
        layer: LowRank(own["A"], own["B"] * _scale(config, alpha, layer, len(own["A"]))) for layer, own in parts.items()
    }


def _scale(config: Mapping[str, Any], alpha: float, layer: str, rank: int) -> float:
    """α / r, or α / √r; a layer's own α goes by PEFT's patterns on the end of its name."""
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = float(own)
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
