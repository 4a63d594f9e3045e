"""Attention layers that give on a CPU what a model's own give, by fewer calls: one product for queries, keys and
values, rotation in place, the cache, and the last product.

A layer is replaced only after its own code was watched: what ours brings to the cache, and what it makes of that, must
be the same numbers; the scale, the window and the soft cap are those that the layer itself asked for. Code that names
what no known family's does is left alone (`ops/attention_code.py`).

Shapes: T tokens · H query heads · G key/value heads · D head size · C columns of heads · R rotated pairs of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import nn

from sartor.generate.batch.faster import Norm, alike
from sartor.generate.batch.joint import Part
from sartor.ops.attention_code import strange_names
from sartor.ops.decode import Flat, Paged, Pages
from sartor.ops.pointwise import Native, pointwise

Tensor = torch.Tensor


class How(TypedDict):
    """How a layer attends (`Pages.attend`)."""

    scale: float
    window: int
    softcap: float


@dataclass(frozen=True, slots=True)
class Reached:
    """What reaches the cache in one call of a layer."""

    layer: int
    query_THD: Tensor
    key_TGD: Tensor
    value_TGD: Tensor
    how: How

    @property
    def widths(self) -> list[int]:
        """Columns of queries, of keys and of values."""
        return [part.shape[1] * part.shape[2] for part in (self.query_THD, self.key_TGD, self.value_TGD)]


class Noting:
    """A cache that notes what reaches it. See `Pages`."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._written: tuple[Tensor, Tensor] | None = None
        self.last: Reached | None = None

    def copy(self, source: int, target: int) -> None:
        self._pages.copy(source, target)

    def write(self, layer: int, key_TGD: Tensor, value_TGD: Tensor, flat: Flat) -> None:
        self._written = key_TGD, value_TGD
        self._pages.write(layer, key_TGD, value_TGD, flat)

    def attend(self, layer: int, query_THD: Tensor, flat: Flat, *, scale: float, window: int, softcap: float) -> Tensor:
        if self._written is not None:
            self.last = Reached(layer, query_THD, *self._written, How(scale=scale, window=window, softcap=softcap))
        return self._pages.attend(layer, query_THD, flat, scale=scale, window=window, softcap=softcap)


class Rotation:
    """The cosines and sines of a forward, as the kernel reads them: made once for all layers that turn alike."""

    def __init__(self) -> None:
        self._of: Tensor | None = None
        self._halves: tuple[Tensor, Tensor] | None = None

    def halves(self, cosine_1TC: Tensor, sine_1TC: Tensor) -> tuple[Tensor, Tensor]:
        """(T, R) each, in fp32: both halves of a row are the same."""
        if self._halves is None or self._of is not cosine_1TC:
            num_pairs = cosine_1TC.shape[-1] // 2
            cosine_TR, sine_TR = (part[0, :, :num_pairs].float().contiguous() for part in (cosine_1TC, sine_1TC))
            self._of, self._halves = cosine_1TC, (cosine_TR, sine_TR)
        return self._halves


class Attention(nn.Module):
    """An attention layer whose queries, keys and values are one product. It has the parts of the one it stands for, by
    their names. `rotation` is None in layers that do not turn (every fourth of SmolLM3)."""

    def __init__(
        self, plain: nn.Module, inputs: Part, seen: Reached, kernel: Native, rotation: Rotation | None
    ) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        parts = dict(plain.named_children())
        self._together, self._out = inputs.together, (parts["o_proj"],)
        self._norms = parts.get("q_norm"), parts.get("k_norm")
        self._layer, self._how, self._kernel, self._rotation = seen.layer, seen.how, kernel, rotation
        self._size, self._widths = seen.query_THD.shape[2], seen.widths

    def forward(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], paged: Paged, **_: Any
    ) -> tuple[Tensor, None]:
        """As transformers calls the layer that this one stands for: (1, T, width), and no weights."""
        query_TC, key_TC, value_TC = torch.split(self._together.whole(hidden_states)[0], self._widths, dim=1)
        query_THD = self._turned(query_TC, self._norms[0], position_embeddings)
        key_TGD = self._turned(key_TC, self._norms[1], position_embeddings)
        paged.pages.write(self._layer, key_TGD, self._heads(value_TC), paged.flat)
        mixed_THD = paged.pages.attend(self._layer, query_THD, paged.flat, **self._how)
        made: Tensor = self._out[0](mixed_THD.flatten(1)[None])
        return made, None

    def _turned(self, part_TC: Tensor, norm: nn.Module | None, positions: tuple[Tensor, Tensor]) -> Tensor:
        """Heads normed and rotated, (T, heads, D); in place where there is no norm."""
        heads_THD = self._heads(part_TC) if norm is None else norm(self._heads(part_TC))
        if self._rotation is not None:
            self._kernel.rotate(heads_THD.flatten(1), self._size, *self._rotation.halves(*positions), 1.0)
        return heads_THD

    def _heads(self, part_TC: Tensor) -> Tensor:
        return part_TC.view(len(part_TC), -1, self._size)


@dataclass(frozen=True, slots=True)
class _Call:
    """How a layer was called, what it gave, and what it brought to the cache."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    gave: Any
    reached: Reached | None


@torch.inference_mode()
def hasten(model: nn.Module, pages: Pages, forward: Callable[[Pages], Tensor]) -> Tensor:
    """Run a forward through a cache, and put faster attention layers in the places of those that give what they give.

    Args:
        model: its linear layers and norms are ours already (`layers.prepare`).
        forward: runs the model through the cache that it is given.

    Returns:
        What the forward gave, by the model's own attention layers.
    """
    noting, calls, rotation = Noting(pages), dict[str, _Call](), Rotation()

    def watch(name: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gave: Any) -> None:
            calls[name] = _Call(args, kwargs, gave, noting.last)

        return note

    layers = {name: module for name, module in model.named_modules() if _inputs(module) is not None}
    handles = [module.register_forward_hook(watch(name), with_kwargs=True) for name, module in layers.items()]
    try:
        gave = forward(noting)
    finally:
        for handle in handles:
            handle.remove()
    for name, call in calls.items():
        model.set_submodule(name, _faster(layers[name], call, noting, rotation))
    return gave


def _inputs(module: nn.Module) -> Part | None:
    """What makes queries, keys and values of an attention layer, if one product does, and no hook waits inside."""
    parts = dict(module.named_children())
    names = ["qkv_proj"] if "qkv_proj" in parts else ["q_proj", "k_proj", "v_proj"]
    inputs = [part for name in names if isinstance(part := parts.get(name), Part)]
    together = {id(part.together) for part in inputs}
    norms = [parts[name] for name in ("q_norm", "k_norm") if name in parts]
    known = len(inputs) == len(names) and len(together) == 1 and isinstance(parts.get("o_proj"), Part)
    hooked = any(part._forward_hooks for part in module.modules())
    return inputs[0] if known and not hooked and all(isinstance(norm, Norm) for norm in norms) else None


def _faster(module: nn.Module, call: _Call, noting: Noting, rotation: Rotation) -> nn.Module:
    """A layer that gives what this one gave when it was called; otherwise the module itself."""
    inputs, seen, positions = _inputs(module), call.reached, call.kwargs.get("position_embeddings")
    if inputs is None or seen is None or not isinstance(positions, tuple) or not isinstance(call.gave, tuple):
        return module
    if positions[0].dim() != 3 or len(call.args) > 1 or strange_names(module):  # not called, or not written, as Llama's
        return module
    size, num_pairs = seen.query_THD.shape[2], positions[0].shape[-1] // 2
    kernel = pointwise(inputs.together.like_K.dtype, size, num_pairs, device=inputs.together.like_K.device.type)
    if not isinstance(kernel, Native) or inputs.together.num_outputs != sum(seen.widths):
        return module
    for turns in (rotation, None):
        made = Attention(module, inputs, seen, kernel, turns)
        gave = made(*call.args, **call.kwargs)
        found = noting.last
        if found is not None and _same(found, gave[0], seen, call.gave[0]):
            return made
    noting.write(seen.layer, seen.key_TGD, seen.value_TGD, call.kwargs["paged"].flat)  # the trials wrote others
    return module


def _same(found: Reached, made: Tensor, wanted: Reached, gave: Tensor) -> bool:
    """What reached the cache is compared by itself: in what a layer makes, a wrong rotation may be one percent."""
    pairs = (
        (found.query_THD, wanted.query_THD),
        (found.key_TGD, wanted.key_TGD),
        (found.value_TGD, wanted.value_TGD),
        (made, gave),
    )
    return all(alike(one, other) for one, other in pairs)
