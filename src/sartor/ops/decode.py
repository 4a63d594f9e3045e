"""Attention of a running batch over a paged cache: prompts being read and answers being written, in one flat forward.

A page holds the keys and values of `PAGE` tokens in a row. A forward's tokens come in spans, one a sequence: they are
written into the cache first, then each attends to what its sequence's pages hold up to itself. Spans whose sequences
begin with the same pages form a group, and those pages are read once for all of them.

Registered with transformers' `AttentionInterface`, so a model's own code is used as it is; the forward's layout and the
cache travel as the keyword argument `paged`.

Shapes: T tokens of the forward · S spans · H query heads · G key/value heads · D head size · B rows of a block ·
P slots that all rows of a block see · L slots of each row's own · V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface

from sartor.errors import Unsupported
from sartor.ops import gpu, native
from sartor.ops.attention import refuse_beyond, unequal

NAME = "sartor_paged"
PAGE = 16  # tokens: one register of AVX-512, two of AVX2; and little is lost at the end of a sequence
NEVER = 1 << 30  # a position that no token reaches
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Span:
    """The next tokens of one sequence: `length` of them, after `before` that the cache holds; pages for all."""

    length: int
    before: int
    pages: Sequence[int]


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring spans `first` to `end` whose sequences all begin with the same `num_shared` full pages."""

    first: int
    end: int
    num_shared: int


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of queries for the plain twin: which slots they see, and at which positions those stand."""

    tokens: slice
    positions_B: torch.Tensor
    slots_P: torch.Tensor
    places_P: torch.Tensor
    slots_BL: torch.Tensor
    places_BL: torch.Tensor


@dataclass(frozen=True)
class Flat:
    """The layout of one forward. Groups cover all spans, in their order; the tensors lie where the model does."""

    spans: tuple[Span, ...]
    groups: tuple[Group, ...]
    device: torch.device = CPU

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device = CPU) -> Flat:
        """Neighbours that begin with the same computed pages form a group."""
        groups: list[Group] = []
        first = 0
        while first < len(spans):
            end, shared = first + 1, spans[first].before // PAGE
            while end < len(spans) and shared:
                common = _common(spans[first], spans[end], shared)
                if not common or 2 * common < shared:  # better two groups than one that shares little
                    break
                end, shared = end + 1, common
            groups.append(Group(first, end, shared if end - first > 1 else 0))
            first = end
        return cls(tuple(spans), tuple(groups), device)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each span begins among the tokens, and the end (S + 1 values)."""
        return tuple(accumulate((span.length for span in self.spans), initial=0))

    @cached_property
    def positions_T(self) -> torch.Tensor:
        """Where each token stands in its sequence."""
        return self._here([span.before + place for span in self.spans for place in range(span.length)])

    @cached_property
    def slots_T(self) -> torch.Tensor:
        """Where each token's key and value go: page · PAGE + place in it."""
        return self._here(
            [
                span.pages[place // PAGE] * PAGE + place % PAGE
                for span in self.spans
                for place in range(span.before, span.before + span.length)
            ]
        )

    @cached_property
    def tables(self) -> tuple[torch.Tensor, ...]:
        """For the native code, int32: starts (S + 1) · tokens before · all pages · their starts (S + 1) · groups."""
        ends = accumulate((len(span.pages) for span in self.spans), initial=0)
        parts: tuple[list[int], ...] = (
            list(self.starts),
            [span.before for span in self.spans],
            [page for span in self.spans for page in span.pages],
            list(ends),
            [number for group in self.groups for number in (group.first, group.end, group.num_shared)],
        )
        return tuple(torch.tensor(part, dtype=torch.int32) for part in parts)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """One block for a group of single tokens, otherwise one for each span."""
        blocks: list[Block] = []
        for group in self.groups:
            spans = self.spans[group.first : group.end]
            if all(span.length == 1 for span in spans):
                blocks.append(self._block(group.first, spans, group.num_shared))
            else:
                blocks += [self._block(group.first + place, [span]) for place, span in enumerate(spans)]
        return tuple(blocks)

    def _block(self, first: int, spans: Sequence[Span], num_shared: int | None = None) -> Block:
        """Rows that share `num_shared` pages; without it, the tokens of one span, which share all they see."""
        tokens = slice(self.starts[first], self.starts[first + len(spans)])
        if num_shared is None:
            seen = spans[0].before + spans[0].length
            own: list[list[int]] = [[] for _ in range(spans[0].length)]
        else:
            seen = num_shared * PAGE
            own = [_slots(span.pages)[seen : span.before + 1] for span in spans]
        longest = max(len(slots) for slots in own)
        places = [[seen + place if place < len(slots) else NEVER for place in range(longest)] for slots in own]
        return Block(
            tokens=tokens,
            positions_B=self.positions_T[tokens],
            slots_P=self._here(_slots(spans[0].pages)[:seen]),
            places_P=self._here(range(seen)),
            slots_BL=self._here([slots + slots[:1] * (longest - len(slots)) for slots in own]),
            places_BL=self._here(places),
        )

    def _here(self, numbers: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)


class Pages(Protocol):
    """The keys and values of all layers."""

    def copy(self, source: int, target: int) -> None:
        """Put what a page holds, in all layers that have been written, into another one."""
        ...

    def write(self, layer: int, key_TGD: torch.Tensor, value_TGD: torch.Tensor, flat: Flat) -> None:
        """Put a layer's keys and values where the layout says."""
        ...

    def attend(
        self, layer: int, query_THD: torch.Tensor, flat: Flat, *, scale: float, window: int, softcap: float
    ) -> torch.Tensor:
        """What each token gathers from its sequence up to itself, (T, H, D). `window` tokens back; 0 softcap: none."""
        ...


@dataclass(frozen=True, slots=True)
class Paged:
    """What travels through the model as `paged`."""

    pages: Pages
    flat: Flat


class PlainPages:
    """The plain twin: slots in one tensor a layer, attention as explicit fp32 products."""

    def __init__(self, num_pages: int) -> None:
        self._num_slots = num_pages * PAGE
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def copy(self, source: int, target: int) -> None:
        copy_page(self._layers, self._num_slots // PAGE, source, target)

    def write(self, layer: int, key_TGD: torch.Tensor, value_TGD: torch.Tensor, flat: Flat) -> None:
        if layer not in self._layers:  # untouched memory costs nothing, so the whole budget is taken at once
            size = (self._num_slots, *key_TGD.shape[1:])
            self._layers[layer] = key_TGD.new_empty(size), key_TGD.new_empty(size)
        keys, values = self._layers[layer]
        keys[flat.slots_T] = key_TGD
        values[flat.slots_T] = value_TGD

    def attend(
        self, layer: int, query_THD: torch.Tensor, flat: Flat, *, scale: float, window: int, softcap: float
    ) -> torch.Tensor:
        keys, values = self._layers[layer]
        mixed_THD = values.new_empty(query_THD.shape)
        for block in flat.blocks:
            query = query_THD[block.tokens].float() * scale
            query = query.view(len(query), keys.shape[1], -1, keys.shape[2])
            shared, own = keys[block.slots_P].float(), keys[block.slots_BL].float()
            scores = torch.cat(
                (torch.einsum("bgrd,pgd->bgrp", query, shared), torch.einsum("bgrd,blgd->bgrl", query, own)), dim=-1
            )
            if softcap:
                scores = torch.tanh(scores / softcap) * softcap
            places = torch.cat((block.places_P.expand(len(query), -1), block.places_BL), dim=1)
            back = block.positions_B[:, None] - places
            hidden = (back < 0) | (back >= window)
            weights = torch.softmax(scores.masked_fill(hidden[:, None, None], -math.inf), dim=-1)
            split = len(block.slots_P)
            mixed = torch.einsum("bgrp,pgd->bgrd", weights[..., :split], values[block.slots_P].float())
            mixed += torch.einsum("bgrl,blgd->bgrd", weights[..., split:], values[block.slots_BL].float())
            mixed_THD[block.tokens] = mixed.flatten(1, 2).to(values.dtype)
        return mixed_THD


class NativePages:
    """The cache as `native/decode.cpp` lays it out, and its attention: of a layer, (G, pages, PAGE · D) twice."""

    def __init__(self, num_pages: int, library: ctypes.CDLL) -> None:
        self._num_pages = num_pages
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._write = native.function(library, "write", "pllpllppp" + "llll")
        self._attend = native.function(library, "attend", "pllpppppppp" + "lllll" + "ffl")

    @torch.inference_mode()
    def copy(self, source: int, target: int) -> None:
        for layer in self._layers.values():
            for part in layer:
                part[:, target] = part[:, source]

    def write(self, layer: int, key_TGD: torch.Tensor, value_TGD: torch.Tensor, flat: Flat) -> None:
        if layer not in self._layers:
            size = key_TGD.shape[1], self._num_pages, PAGE * key_TGD.shape[2]
            self._layers[layer] = torch.empty(size, dtype=key_TGD.dtype), torch.empty(size, dtype=key_TGD.dtype)
        keys, values = self._layers[layer]
        key_TGD, value_TGD = (part if part.stride(2) == 1 else part.contiguous() for part in (key_TGD, value_TGD))
        self._write(
            key_TGD.data_ptr(),
            *key_TGD.stride()[:2],
            value_TGD.data_ptr(),
            *value_TGD.stride()[:2],
            flat.slots_T.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            self._num_pages,
            *key_TGD.shape,
        )

    def attend(
        self, layer: int, query_THD: torch.Tensor, flat: Flat, *, scale: float, window: int, softcap: float
    ) -> torch.Tensor:
        keys, values = self._layers[layer]
        query_THD = query_THD.to(keys.dtype)
        if query_THD.stride(2) != 1:
            query_THD = query_THD.contiguous()
        mixed_THD = torch.empty(query_THD.shape, dtype=keys.dtype)
        self._attend(
            query_THD.data_ptr(),
            *query_THD.stride()[:2],
            mixed_THD.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            *(part.data_ptr() for part in flat.tables),
            len(flat.groups),
            query_THD.shape[1],
            len(keys),
            query_THD.shape[2],
            self._num_pages,
            scale,
            softcap,
            window,
        )
        return mixed_THD


def paged_attention(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    paged: Paged | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Write the new keys and values, and attend. Returns the output (1, T, H, D) and no attention weights.

    Raises:
        Unsupported: no layout came through the model, a mask, several rows, dropout, attention sinks, or values of
            another size than keys.
    """
    also = unequal(key_1GTD, value_1GTD)
    refuse_beyond("paged attention", "sample with another engine", query_1HTD, attention_mask, also=also, **rest)
    if paged is None:
        raise Unsupported("paged attention without a layout", hint="pass paged")
    layer = module.layer_idx
    assert isinstance(layer, int)
    paged.pages.write(layer, key_1GTD[0].transpose(0, 1), value_1GTD[0].transpose(0, 1), paged.flat)
    mixed_THD = paged.pages.attend(
        layer,
        query_1HTD[0].transpose(0, 1),
        paged.flat,
        scale=query_1HTD.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window or NEVER,
        softcap=softcap or 0.0,
    )
    return mixed_THD[None], None


def best_of(logits_BV: torch.Tensor) -> list[int]:
    """The first largest element of each row; torch's own takes a quarter of a step for 64 rows in bf16."""
    library = native.load_for("decode", logits_BV.dtype) if logits_BV.device == CPU else None
    if library is None or not logits_BV.is_contiguous():
        found: list[int] = logits_BV.argmax(dim=-1).tolist()
        return found
    best_B = torch.empty(len(logits_BV), dtype=torch.int64)
    native.function(library, "best", "ppll")(logits_BV.data_ptr(), best_B.data_ptr(), *logits_BV.shape)
    return best_B.tolist()


def register() -> None:
    """Make `attn_implementation="sartor_paged"` known to transformers. Safe to call twice."""
    AttentionInterface.register(NAME, paged_attention)


def open_pages(num_pages: int, dtype: torch.dtype, head_size: int, device: str = "cpu") -> Pages:
    """The cache of a model that computes in `dtype` on a kind of device: with a kernel where that can be had."""
    if device != "cpu":
        return PlainPages(num_pages) if gpu.refusal(dtype) else _by_triton(num_pages)
    library = None if head_size % PAGE else native.load_for("decode", dtype)
    return PlainPages(num_pages) if library is None else NativePages(num_pages, library)


def _by_triton(num_pages: int) -> Pages:
    from sartor.ops.gpu.paged import TritonPages

    return TritonPages(num_pages)


@torch.inference_mode()
def copy_page(
    layers: Mapping[int, tuple[torch.Tensor, torch.Tensor]], num_pages: int, source: int, target: int
) -> None:
    """Copy a page of each layer; a page is one piece of memory, however it is laid out."""
    for layer in layers.values():
        for part in layer:
            pages = part.view(num_pages, -1)
            pages[target] = pages[source]


def _common(one: Span, other: Span, most: int) -> int:
    """How many leading pages two spans share, of those that are full for both before this forward."""
    most = min(most, other.before // PAGE)
    if one.pages[:most] == other.pages[:most]:
        return most
    return next(place for place, (a, b) in enumerate(zip(one.pages, other.pages, strict=False)) if a != b)


def _slots(pages: Sequence[int]) -> list[int]:
    return [page * PAGE + place for page in pages for place in range(PAGE)]
