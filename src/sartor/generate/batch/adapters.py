"""Reading an adapter folder as PEFT writes it: which layers it changes, and by which two matrices.

Only what the engine computes exactly is read; every other setting of PEFT's is refused by name.

Shapes: R rank · K inputs · N outputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sartor.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")

_AGAIN = "the file is damaged, or not written by PEFT: run `sartor package` again, or copy the adapter anew"

#: Settings under which LoRA is y = W x + s B A x and nothing else; anything else is refused.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
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


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter adds to one layer: up_NR @ down_RK, the scale already in `up`."""

    down_RK: torch.Tensor
    up_NR: torch.Tensor


def read_adapter(folder: Path) -> dict[str, Delta]:
    """The deltas of an adapter, by the name of the layer in the base model.

    Raises:
        ModelError: the folder holds no adapter, or one that is more than plain LoRA.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}", hint="name a folder that holds an adapter as PEFT writes it")
    config = _read_config(folder / CONFIG)
    for setting, plain in PLAIN.items():
        if config.get(setting, plain[0]) not in plain:
            raise ModelError(
                f"the adapter in {folder} has {setting} = {config[setting]!r}, which this engine does not compute",
                hint="merge it into its base, or sample with another engine",
            )
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read: {error}", hint=_AGAIN) from error
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, weight in weights.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ModelError(
                f"{folder / WEIGHTS} holds {key!r}, which is no part of LoRA on a linear layer",
                hint="merge the adapter into its base, or sample with another engine",
            )
        pairs.setdefault(match["layer"], {})[match["side"]] = weight.float()
    for layer, pair in pairs.items():
        if len(pair) < 2:
            here, missing = ("A", "B") if "A" in pair else ("B", "A")
            raise ModelError(f"{folder / WEIGHTS} has lora_{here} of {layer} and no lora_{missing}", hint=_AGAIN)
    return {layer: Delta(pair["A"], pair["B"] * _scale(config, layer, len(pair["A"]))) for layer, pair in pairs.items()}


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text("utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is no JSON object")
        float(config["lora_alpha"])
    except (ValueError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error}", hint=_AGAIN) from error
    except KeyError as error:
        raise ModelError(f"{file} lacks {error}", hint=_AGAIN) from error
    return config


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """α / r, or α / √r; a layer's own α goes by PEFT's patterns on the end of its name."""
    alpha = config["lora_alpha"]
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = own
            break
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))
