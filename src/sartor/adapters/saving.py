"""Writing and reading PEFT folders: what all families of adapters share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.errors import ModelError

if TYPE_CHECKING:
    import torch

#: What PEFT calls an adapter that was given no name.
ADAPTER = "default"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DAMAGED = "the file is damaged, or not written by PEFT: run `sartor package` again, or copy the adapter anew"


def export(model: Any, folder: Path, settings: Any = None, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write the PEFT files `adapter_config.json` and `adapter_model.safetensors`.

    `settings` (a PEFT configuration) and `tensors`, by the names of the model's parameters, stand for the model's own.
    """
    own = model.peft_config[ADAPTER]
    model.peft_config[ADAPTER] = settings or own
    try:
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, state_dict=tensors)
    finally:
        model.peft_config[ADAPTER] = own
    (folder / "README.md").unlink(missing_ok=True)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of an adapter.

    Raises:
        ModelError: the folder holds none, or they cannot be read.
    """
    file = _file(folder, CONFIG)
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} cannot be read: {error}", hint=DAMAGED) from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} cannot be read: it is no JSON object", hint=DAMAGED)
    return config


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, by PEFT's names.

    Raises:
        ModelError: the folder holds none, or they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = _file(folder, WEIGHTS)
    try:
        weights: dict[str, torch.Tensor] = load_file(file)
    except SafetensorError as error:
        raise ModelError(f"{file} cannot be read: {error}", hint=DAMAGED) from error
    return weights


def by_module(folder: Path, mark: str) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each module of the base: what stands before `mark` in PEFT's names, and what stands after it."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in read_weights(folder).items():
        module, _, part = name.removeprefix("base_model.model.").partition(mark)
        modules.setdefault(module, {})[part] = weight
    return modules


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ModelError(f"{folder} has no {name}", hint="name a folder that holds an adapter as PEFT writes it")
    return folder / name
