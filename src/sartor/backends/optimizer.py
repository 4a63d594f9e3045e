"""Optimizers by name, and their state as tensors. Weights that are computed in fewer bits have fp32 masters."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from sartor.backends.estimate import EIGHT_BIT
from sartor.errors import RecipeError, UserError
from sartor.names import suggest
from sartor.plan import Adam

NAMES = ("adamw", "sgd", *EIGHT_BIT)
#: Tables of bitsandbytes that all weights share; safetensors takes no two tensors of one memory.
SHARED = ("qmap1", "qmap2")


def groups(weights: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameter groups of weights by name, one for each rate: a multiple of the learning rate, 1 if none is named.

    Raises:
        ValueError: a rate is of no weight.
    """
    if strange := rates.keys() - weights.keys():
        raise ValueError(f"a rate for {min(strange)}, which is not trained")
    found: dict[float, list[nn.Parameter]] = {}
    for weight_name, weight in weights.items():
        found.setdefault(rates.get(weight_name, 1.0), []).append(weight)
    return [{"params": members, "rate": rate} for rate, members in found.items()]


def make(name: str, weights: Sequence[dict[str, Any]], adam: Adam) -> torch.optim.Optimizer:
    """An optimizer over groups of fp32 weights. Learning rate and decay are set on every step.

    Raises:
        RecipeError: no optimizer has that name, or it cannot work on sharded weights.
        UserError: its package is not installed.
    """
    if name == "sgd":
        return torch.optim.SGD(weights, lr=0.0)
    settings: dict[str, Any] = {
        "lr": 0.0,
        "betas": (adam.beta1, adam.beta2),
        "eps": adam.epsilon,
        "weight_decay": 0.0,
    }
    if name == "adamw":
        return torch.optim.AdamW(weights, fused=True, **settings)
    if name not in EIGHT_BIT:
        raise RecipeError(f"unknown optimizer {name!r}", hint=suggest(name, NAMES))
    if any(isinstance(weight, DTensor) for group in weights for weight in group["params"]):
        raise RecipeError(f"{name!r} cannot work on sharded weights", hint="choose adamw: its moments are sharded too")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{name!r} needs bitsandbytes", hint="pip install 'sartor[gpu]', or choose adamw")
    module = importlib.import_module("bitsandbytes.optim")
    optimizer: torch.optim.Optimizer = vars(module)[EIGHT_BIT[name]](weights, **settings)
    return optimizer


def masters_of(weights: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """What the optimizer moves: an fp32 weight itself, or the fp32 master of a shorter one.

    A bf16 weight of 1 cannot be moved by less than 0.004: most updates would vanish. Gradients are added up in the
    master as well, so that micro-batches are not rounded between each other.
    """
    masters = {}
    for name, weight in weights.items():
        if weight.dtype == torch.float32:
            masters[name] = weight
            continue
        masters[name] = nn.Parameter(weight.detach().float())
        weight.register_post_accumulate_grad_hook(partial(_collect, masters[name]))  # type: ignore[no-untyped-call]
    return masters


def _collect(master: nn.Parameter, weight: torch.Tensor) -> None:
    """Add a weight's gradient to that of its master, and forget it."""
    assert weight.grad is not None
    gradient = weight.grad.float()
    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
    weight.grad = None


@torch.no_grad()
def refresh(weights: Mapping[str, nn.Parameter], masters: Mapping[str, nn.Parameter]) -> None:
    """Round the masters into the weights that are computed with."""
    for name, weight in weights.items():
        if masters[name] is not weight:
            weight.copy_(masters[name])


def state_of(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> dict[str, torch.Tensor]:
    """The state that belongs to one weight. bitsandbytes counts steps in a plain int: an int64 scalar on disk."""
    state = {key: torch.as_tensor(value).detach() for key, value in optimizer.state.get(weight, {}).items()}
    if _is_eight_bit(optimizer) and not state.get("step"):
        return {}
    return {key: value.clone() if key in SHARED else value for key, value in state.items()}


def restore(optimizer: torch.optim.Optimizer, weight: nn.Parameter, state: Mapping[str, torch.Tensor]) -> None:
    """The mirror of `state_of`: an empty state makes the optimizer as new.

    Tensors that bitsandbytes has are filled anew and stay: the memory of paged ones is never given back.
    """
    held = optimizer.state.get(weight, {})
    if not _is_eight_bit(optimizer) or (state and not held):
        optimizer.state.pop(weight, None)
        if state:
            optimizer.state[weight] = {key: _placed(optimizer, weight, value) for key, value in state.items()}
        return
    for key, value in held.items():
        if key == "step":
            held[key] = int(state[key]) if state else 0
        elif key not in SHARED:
            value.copy_(state[key]) if state else value.zero_()


def _is_eight_bit(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer).__name__ in EIGHT_BIT.values()


def _placed(optimizer: Any, weight: nn.Parameter, value: torch.Tensor) -> int | torch.Tensor:
    """A number, or a tensor where its weight lies: a fused optimizer counts its steps there too; paged if it pages."""
    if value.dtype == torch.int64 and value.dim() == 0:
        return int(value)
    if value.dtype == torch.uint8 and value.shape == weight.shape and _is_eight_bit(optimizer):
        moments: torch.Tensor = optimizer.get_state_buffer(weight, dtype=torch.uint8).copy_(value)
        return moments
    return value.to(weight.device)
