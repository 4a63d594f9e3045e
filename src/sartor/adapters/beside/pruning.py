"""How a ladder begins: as what is left of the backbone when only its weightiest dimensions are kept.

Structural pruning (Sung et al. 2022, §3.2, after Li et al. 2017): rows and columns of the weights are summed up by
|w|, or by the Fisher information g², and the largest are kept. The dimensions of the stream are the same throughout, as
it is one stream; those of the inner layer and of the heads are chosen layer by layer. Where heads are rotated, queries
and keys keep every r-th frequency, so that what is turned together stays together. Nothing is drawn at random.

Shapes: N outputs · K inputs · D hidden size · F inner width · H query heads · G key heads · C head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sartor.adapters.beside.reading import gradients, layers_of
from sartor.adapters.beside.sizes import HEAD_NORMS
from sartor.errors import RecipeError

if TYPE_CHECKING:
    from sartor.types import Batch

Tensor = torch.Tensor

_QUERY, _KEY, _VALUE, _OUT = ("query", "hidden"), ("key", "hidden"), ("value", "hidden"), ("hidden", "mixed")
_IN, _DOWN = ("inner", "hidden"), ("hidden", "inner")
#: What the outputs and inputs of each linear layer are, of Llama and its like and of T5.
AXES = {
    "q_proj": _QUERY,
    "k_proj": _KEY,
    "v_proj": _VALUE,
    "o_proj": _OUT,
    "gate_proj": _IN,
    "up_proj": _IN,
    "down_proj": _DOWN,
    "q": _QUERY,
    "k": _KEY,
    "v": _VALUE,
    "o": _OUT,
    "wi": _IN,
    "wi_0": _IN,
    "wi_1": _IN,
    "wo": _DOWN,
}
#: By the number of a layer and a linear layer's path in it: how much its outputs (N,) and its inputs (K,) weigh.
Weighed = Mapping[tuple[int, str], tuple[Tensor, Tensor]]


def weights(decoder: nn.Module) -> dict[tuple[int, str], Any]:
    """The matrices of a decoder, by the number of the layer and the path in it.

    Raises:
        RecipeError: its layers have others.
    """
    found: dict[tuple[int, str], Any] = {}
    for number, layer in enumerate(layers_of(decoder)):
        linear = {path: part for path, part in layer.named_modules() if isinstance(part, nn.Linear)}
        strange = [path for path in linear if path.rpartition(".")[2] not in AXES]
        if strange:
            raise RecipeError(
                f"a side network does not know {', '.join(strange)} of {type(layer).__name__}",
                hint="choose lora, or a model of the Llama, Qwen, Gemma, SmolLM, Mistral or T5 families",
            )
        found |= {(number, path): part.weight for path, part in linear.items()}
    return found


@torch.no_grad()
def magnitudes(decoder: nn.Module) -> Weighed:
    """By the sum of |w|."""
    return {place: _both(weight.abs()) for place, weight in weights(decoder).items()}


def fisher(model: Any, decoder: nn.Module, batches: Sequence[Batch]) -> Weighed:
    """By the sum of g², over the segments of some batches."""
    matrices = weights(decoder)
    sums: dict[tuple[int, str], tuple[Any, Any]] = dict.fromkeys(matrices, (0.0, 0.0))
    for slopes in gradients(model, batches, list(matrices.values())):
        for place, slope in zip(matrices, slopes, strict=True):
            known, found = sums[place], _both(slope.float().square())
            sums[place] = (known[0] + found[0], known[1] + found[1])
    return sums


def _both(weighed_NK: Tensor) -> tuple[Tensor, Tensor]:
    return weighed_NK.sum(dim=1, dtype=torch.float32), weighed_NK.sum(dim=0, dtype=torch.float32)


@torch.no_grad()
def begin(ladder: Any, decoder: Any, norm: nn.Module, weighed: Weighed) -> None:
    """Give a ladder the weights that are left; its stream then is the kept dimensions of the backbone's."""
    layers = layers_of(decoder)
    hidden = _heaviest(_of_stream(weighed), ladder.first.out_features)
    for down in (ladder.first, *ladder.downs):
        down.weight.zero_()[torch.arange(len(hidden), device=hidden.device), hidden] = 1.0
        down.bias.zero_()
    for number, block in zip(ladder.layers, ladder.blocks, strict=True):
        own = {path: both for (layer, path), both in weighed.items() if layer == number}
        kept = _kept(own, ladder.head_sizes, block, rotated=ladder.rotated)
        theirs = dict(layers[number].named_parameters())
        for path, parameter in block.named_parameters():
            if path in theirs:
                parameter.copy_(_cut(path, theirs[path], kept, hidden))
    theirs_D: Any = norm.get_parameter("weight")
    ladder.norm.weight.copy_(theirs_D[hidden])


def _of_stream(weighed: Weighed) -> Tensor:
    """How much each dimension of the stream weighs, (D,): in all that read it and write to it."""
    sums = [both[AXES[path.rpartition(".")[2]].index("hidden")] for (_, path), both in weighed.items()]
    return torch.stack(sums).sum(dim=0)


def _kept(
    weighed: Mapping[str, tuple[Tensor, Tensor]], sizes: tuple[int, int], block: nn.Module, *, rotated: bool
) -> dict[str, dict[str, Tensor]]:
    """Which dimensions each part of a layer keeps: of an attention those of its heads, of another the inner ones.

    By the path of the part, and what the dimensions are.
    """
    members: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for path, both in weighed.items():
        members.setdefault(path.rpartition(".")[0], {})[path] = both
    kept = {}
    for part, own in members.items():
        named = {AXES[path.rpartition(".")[2]]: both for path, both in own.items()}
        if _QUERY in named:
            kept[part] = _of_heads(named, sizes, rotated=rotated)
        else:
            inner = [both[AXES[path.rpartition(".")[2]].index("inner")] for path, both in own.items()]
            narrow = next(block.get_parameter(f"{path}.weight") for path in own if path.endswith(("down_proj", "wo")))
            kept[part] = {"inner": _heaviest(torch.stack(inner).sum(dim=0), narrow.shape[1])}
    return kept


def _of_heads(
    named: Mapping[tuple[str, str], tuple[Tensor, Tensor]], sizes: tuple[int, int], *, rotated: bool
) -> dict[str, Tensor]:
    narrow, size = sizes
    query_HC, mixed_HC = named[_QUERY][0].view(-1, size), named[_OUT][1].view(-1, size)
    key_GC, value_GC = named[_KEY][0].view(-1, size), named[_VALUE][0].view(-1, size)
    num_key, shared = len(key_GC), len(query_HC) // len(key_GC)
    value_GC = value_GC + mixed_HC.view(num_key, shared, size).sum(dim=1)
    values = torch.stack([_heaviest(value_C, narrow) for value_C in value_GC])
    key_GC = key_GC + query_HC.view(num_key, shared, size).sum(dim=1)
    turned = pairs(size, narrow, key_GC.device)
    keys = turned.expand(num_key, -1) if rotated else torch.stack([_heaviest(key_C, narrow) for key_C in key_GC])
    return {
        "head": turned,
        "query": _in_heads(keys.repeat_interleave(shared, dim=0), size),
        "key": _in_heads(keys, size),
        "value": _in_heads(values, size),
        "mixed": _in_heads(values.repeat_interleave(shared, dim=0), size),
    }


def _cut(path: str, theirs: Tensor, kept: Mapping[str, Mapping[str, Tensor]], hidden: Tensor) -> Tensor:
    """What is left of a parameter of a layer, by its path."""
    part, _, name = path.rpartition(".")[0].rpartition(".")
    own = {"hidden": hidden, **kept.get(part, {})}
    if name in HEAD_NORMS:
        return theirs[own["head"]]
    if name not in AXES:  # a norm of the stream; T5's position bias has no dimension that is narrower
        return theirs[hidden] if theirs.dim() == 1 else theirs
    outputs, inputs = AXES[name]
    return theirs[own[outputs]][:, own[inputs]] if theirs.dim() == 2 else theirs[own[outputs]]


def pairs(size: int, narrow: int, device: torch.device) -> Tensor:
    """The dimensions of a rotated head that are kept: pairs of evenly spaced frequencies, (narrow,)."""
    num_pairs, num_kept = size // 2, max(1, narrow // 2)
    first = torch.arange(num_kept, device=device) * num_pairs // num_kept
    return torch.cat([first, first + num_pairs])


def _in_heads(within: Tensor, size: int) -> Tensor:
    """Places in all heads from those within each."""
    return (within + torch.arange(len(within), device=within.device)[:, None] * size).flatten()


def _heaviest(weighed: Tensor, num: int) -> Tensor:
    """The places of the largest, in their order."""
    return weighed.topk(num).indices.sort().values
