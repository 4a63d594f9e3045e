"""How a ladder begins: as what is left of the backbone when only its weightiest dimensions are kept.

Structural pruning (Sung et al. 2022, §3.2, after Li et al. 2017): rows and columns of the weights are summed up by
|w|, or by the Fisher information g², and the largest are kept. The dimensions of the stream are the same throughout, as
it is one stream; those of the inner layer and of a head's values are chosen layer by layer. Queries and keys keep every
r-th frequency of the rotation, so that what is turned together stays together. Nothing is drawn at random.

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

#: What the outputs and inputs of each linear layer are.
AXES = {
    "q_proj": ("query", "hidden"),
    "k_proj": ("key", "hidden"),
    "v_proj": ("value", "hidden"),
    "o_proj": ("hidden", "mixed"),
    "gate_proj": ("inner", "hidden"),
    "up_proj": ("inner", "hidden"),
    "down_proj": ("hidden", "inner"),
}

#: By layer and linear layer: how much each of its outputs (N,) and inputs (K,) weighs.
Weighed = Mapping[tuple[int, str], tuple[Tensor, Tensor]]


def weights(decoder: nn.Module) -> dict[tuple[int, str], Any]:
    """The matrices of a decoder by layer and name.

    Raises:
        RecipeError: its layers have others, or not all of these.
    """
    found: dict[tuple[int, str], Any] = {}
    for number, layer in enumerate(layers_of(decoder)):
        linear = {name.rpartition(".")[2]: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
        if linear.keys() != AXES.keys():
            raise RecipeError(
                f"a side network needs layers of {', '.join(AXES)}; {type(layer).__name__} has {', '.join(linear)}",
                hint="choose lora, or a model of the Llama, Qwen, Gemma, SmolLM or Mistral families",
            )
        found |= {(number, name): part.weight for name, part in linear.items()}
    return found


@torch.no_grad()
def magnitudes(decoder: nn.Module) -> Weighed:
    """By the sum of |w|."""
    return {place: _both(weight.abs()) for place, weight in weights(decoder).items()}


def fisher(model: Any, decoder: nn.Module, batches: Sequence[Batch]) -> Weighed:
    """By the sum of g², over the segments of some batches."""
    matrices = weights(decoder)
    names = {f"{number}.{name}": (number, name) for number, name in matrices}
    sums: dict[tuple[int, str], tuple[Any, Any]] = {}
    for slopes in gradients(model, batches, {name: matrices[place] for name, place in names.items()}):
        for name, slope in slopes.items():
            found = _both(slope.float().square())
            known = sums.get(names[name], (0.0, 0.0))
            sums[names[name]] = (known[0] + found[0], known[1] + found[1])
    return sums


def _both(weighed_NK: Tensor) -> tuple[Tensor, Tensor]:
    return weighed_NK.sum(dim=1, dtype=torch.float32), weighed_NK.sum(dim=0, dtype=torch.float32)


@torch.no_grad()
def begin(ladder: Any, decoder: Any, weighed: Weighed) -> None:
    """Give a ladder the weights that are left; its stream then is the kept dimensions of the backbone's."""
    layers = layers_of(decoder)
    hidden = _heaviest(_of_stream(weighed), ladder.first.out_features)
    for down in (ladder.first, *ladder.downs):
        down.weight.zero_()[torch.arange(len(hidden), device=hidden.device), hidden] = 1.0
        down.bias.zero_()
    for number, block in zip(ladder.layers, ladder.blocks, strict=True):
        kept = {"hidden": hidden} | _within(number, layers[number].self_attn, block, weighed)
        theirs = dict(layers[number].named_parameters())
        for name, parameter in block.named_parameters():
            parameter.copy_(_cut(name, theirs[name], kept))
    ladder.norm.weight.copy_(decoder.norm.weight[hidden])
    ladder.up.weight.zero_()
    ladder.up.bias.zero_()


def _of_stream(weighed: Weighed) -> Tensor:
    """How much each dimension of the stream weighs, (D,): in all that read it and write to it."""
    sums = [both[AXES[name].index("hidden")] for (_, name), both in weighed.items()]
    return torch.stack(sums).sum(dim=0)


def _within(number: int, attention: Any, block: Any, weighed: Weighed) -> dict[str, Tensor]:
    """Which dimensions of the inner layer and of the heads a layer keeps."""
    size, narrow = attention.head_dim, block.self_attn.head_dim
    inner_F = weighed[number, "gate_proj"][0] + weighed[number, "up_proj"][0] + weighed[number, "down_proj"][1]
    value_GC = weighed[number, "v_proj"][0].view(-1, size)
    mixed_HC = weighed[number, "o_proj"][1].view(-1, size)
    num_key, num_query = len(value_GC), len(mixed_HC)
    value_GC = value_GC + mixed_HC.view(num_key, -1, size).sum(dim=1)
    values = torch.stack([_heaviest(value_C, narrow) for value_C in value_GC])
    turned = pairs(size, narrow, values.device)
    return {
        "inner": _heaviest(inner_F, block.mlp.down_proj.in_features),
        "head": turned,
        "query": _in_heads(turned.expand(num_query, -1), size),
        "key": _in_heads(turned.expand(num_key, -1), size),
        "value": _in_heads(values, size),
        "mixed": _in_heads(values.repeat_interleave(num_query // num_key, dim=0), size),
    }


def _cut(name: str, theirs: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
    """What is left of a parameter of a layer, by its name."""
    part = name.split(".")[-2]
    if part in HEAD_NORMS:
        return theirs[kept["head"]]
    outputs, inputs = AXES.get(part, ("hidden", ""))
    return theirs[kept[outputs]][:, kept[inputs]] if theirs.dim() == 2 else theirs[kept[outputs]]


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
