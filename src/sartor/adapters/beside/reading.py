"""What one forward of a frozen backbone leaves, and what a network beside it needs to go on from there.

Shapes: B rows · T tokens · N wanted tokens · D hidden size · S segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sartor.errors import Unsupported

if TYPE_CHECKING:
    from sartor.types import Batch

Tensor = torch.Tensor

#: The lists in which decoders keep their layers: Llama and its like, and T5.
LISTS = ("layers", "block")
ALONE = "give separate segments"


@dataclass(frozen=True, slots=True)
class Call:
    """How a layer was called, beside the hidden states."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]


@dataclass(slots=True)
class Reading:
    """`states`: what entered the first layer, and what left each, (B, T, D). `rows`: the tokens whose result is wanted.

    Rows are left out (None) where all are.
    """

    rows: Tensor | None = None
    states: list[Tensor] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def wanted(self, state_BTD: Tensor) -> Tensor:
        """(B, N, D)."""
        return state_BTD if self.rows is None else state_BTD[:, self.rows]

    def arguments(self, layer: int) -> dict[str, Any]:
        """The named arguments of a layer's call, as transformers' own layers take them.

        Raises:
            Unsupported: segments share beginnings, which only the hand-written layers compute.
        """
        named = dict(self.calls[layer].named)
        forest = named.pop("forest", None)
        if forest is None:
            return named
        if (forest.parents_P >= 0).any():
            raise Unsupported("what works beside the backbone computes no beginnings once for several", hint=ALONE)
        offsets_S1 = forest.offsets_P1
        return named | {"cu_seq_lens_q": offsets_S1, "max_length_q": int(offsets_S1.diff().max())}


def layers_of(decoder: nn.Module) -> list[Any]:
    """The layers of a decoder, in their order."""
    parts = dict(decoder.named_children())
    return next(list(parts[name].children()) for name in LISTS if name in parts)


def device_of(decoder: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(decoder.parameters()).device


def make_room(cache: Any, num_layers: int, layers: Sequence[int]) -> None:
    """Layers of a generation's cache for keys beside those of the backbone's `num_layers`, of the kind of some of them.

    In the same cache they are cropped, repeated and put in another order with the rest, as beam search does.

    Raises:
        Unsupported: it is no dynamic cache.
    """
    for number, layer in enumerate(layers):
        if len(cache.layers) > num_layers + number:
            continue
        like = cache.layers[layer]
        if type(like) is DynamicSlidingWindowLayer:
            cache.layers.append(DynamicSlidingWindowLayer(sliding_window=like.sliding_window))
        elif type(like) is DynamicLayer:
            cache.layers.append(DynamicLayer())
        else:
            raise Unsupported(f"keys beside a {type(like).__name__}", hint="generate with a DynamicCache, the default")


def gradients(model: Any, batches: Sequence[Batch], weights: Sequence[nn.Parameter]) -> Iterator[Sequence[Tensor]]:
    """Of each segment with a supervised token: the slope of its loss by frozen weights of an attached model."""
    base = model.get_base_model()
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with model.disable_adapter():
            for batch in batches:
                for loss in _losses(base, batch):
                    yield torch.autograd.grad(loss, list(weights))
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _losses(model: Any, batch: Batch) -> Iterator[Tensor]:
    """The sum of losses of each segment, each computed by itself, so that any attention is right for it."""
    for start, end in pairwise(batch.offsets_S1.tolist()):
        tokens_T, positions_T, targets_T, weights_T = (
            torch.from_numpy(part[start:end]).to(model.device)
            for part in (batch.tokens_T, batch.positions_T, batch.targets_T, batch.weights_T)
        )
        if not weights_T.any():
            continue
        hidden_1TD = model.base_model(
            input_ids=tokens_T[None],
            position_ids=positions_T[None],
            use_cache=False,
            cu_seq_lens_q=torch.tensor([0, end - start], dtype=torch.int32, device=model.device),
            max_length_q=end - start,
        ).last_hidden_state
        logits_TV = model.get_output_embeddings()(hidden_1TD[0]).float()
        yield (F.cross_entropy(logits_TV, targets_T, reduction="none") * weights_T).sum()
