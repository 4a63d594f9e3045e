"""Decoder layers of the Llama-like families as two hand-written blocks each, in place of transformers' own forward.

A layer is taken apart by the names of its parts, put together as blocks, and both are run on the same tokens: only
where they agree are the blocks used. Anything else about a layer (a part that is not known, an adapter beyond LoRA, a
scale, a soft cap) leaves the whole model on its plain path, and `Fusion.problem` says why. The modules keep their
places and names, so saving, merging and switching adapters off work as before.

Shapes: T tokens · D width of the stream · R rotated pairs of a head · N wanted rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sartor.errors import Unsupported
from sartor.hardware import return_freed_memory
from sartor.ops import attention, attention_block, forest_attention, gated_block, gpu, native
from sartor.ops.attention_block import AttentionBlock
from sartor.ops.attention_code import strange_names
from sartor.ops.block import Pass, Tools
from sartor.ops.forest_attention import Heads
from sartor.ops.gated_block import GatedBlock
from sartor.ops.joint_linear import JointLinear
from sartor.ops.lora_linear import AugmentedLoraLinear
from sartor.ops.pointwise import Activation, activation_of, pointwise, wide
from sartor.ops.pointwise import Plain as PlainPointwise
from sartor.ops.stream_norm import StreamNorm
from sartor.ops.workspace import Workspace

Tensor = torch.Tensor

#: What is computed again in the backward instead of being saved, by the plan's name for it.
RECOMPUTE: Mapping[str, frozenset[str]] = {
    "none": frozenset(),
    "mlp": gated_block.RECOMPUTED,
    "layer": gated_block.RECOMPUTED | attention_block.RECOMPUTED,
}
#: Share by which a layer's update may differ: bf16 rounds it by 0.007 at most, fp32 by 1e-6 (measured, ten families).
TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.02}
TIGHT = 1e-4
PLAIN = "it takes the plain path"


class FusedLayer(nn.Module):
    """A decoder layer with the parts and names of the one it stands for. Calls without a forest go to that one."""

    def __init__(self, plain: nn.Module, attend: AttentionBlock, feed: GatedBlock, fusion: Fusion) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self._plain = (plain,)  # in a tuple, so that its parameters are not registered a second time
        self._adapted = tuple(part for part in plain.modules() if isinstance(part, AugmentedLoraLinear))
        self.attend, self.feed, self._fusion = attend, feed, fusion
        self._trained = any(part.masters for block in (attend, feed) for part in block.parts)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(1, T, D), or (1, N, D) from the last layer when rows are wanted."""
        if "forest" not in kwargs or any(part.out_of_use for part in self._adapted[:1]):
            return self._plain[0](hidden_states, *args, **kwargs)
        learns = self._trained or hidden_states.requires_grad  # else nothing has to be kept for a backward
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            run = self.run_of(kwargs)
            rows_N = kwargs.get("rows") if self.attend.index == self._fusion.last else None
            return self.feed(self.attend(hidden_states.squeeze(0), run, rows_N), run)[None]

    def run_of(self, kwargs: Mapping[str, Any]) -> Pass:
        """The pass that a call with these arguments is part of."""
        return self._fusion.run_of(self.attend.index, kwargs)


class Fusion:
    """The blocks of a model. `problem` says why there are none."""

    def __init__(self, recompute: str, num_rows: int, device: torch.device) -> None:
        self.problem = ""
        self.last = -1
        self.workspace = Workspace(num_rows, device)
        self._recompute = RECOMPUTE[recompute]
        self._blocks: list[AttentionBlock | GatedBlock] = []
        self._run: Pass | None = None
        self._rotation: Tensor | None = None  # of which `_run` has the halves
        self._at = -1  # the layer that ran last: one that does not follow it begins a forward, as the first one does

    @property
    def slow(self) -> str:
        """What plain torch computes between our products, as no kernel takes these sizes; "" where all have one."""
        tools = [block.tools for block in self._blocks]
        parts = {
            "attention, which then holds the scores of all pairs of tokens": any(
                isinstance(each.attention, forest_attention.Plain) for each in tools
            ),
            "norms, rotation and activation": any(isinstance(each.pointwise, PlainPointwise) for each in tools),
        }
        return " and ".join(part for part, is_plain in parts.items() if is_plain)

    def refresh(self, *, frozen: bool = False) -> None:
        """Copy the trained masters into the working copies, once after each update; `frozen`: those that stay, too."""
        for block in self._blocks:
            for part in block.parts:
                if part.masters or frozen:
                    part.refresh()

    def add(self, attend: AttentionBlock, feed: GatedBlock) -> None:
        """Take in the blocks of the next layer, which is the last one until another comes."""
        self._blocks += [attend, feed]
        self.last = attend.index

    def run_of(self, index: int, kwargs: Mapping[str, Any]) -> Pass:
        """What one forward of all layers shares; made anew where the rotation changes from layer to layer."""
        cosine_1TC, sine_1TC = kwargs["position_embeddings"]
        num_pairs = cosine_1TC.shape[-1] // 2
        saved = None
        if torch.is_grad_enabled():
            going_on = index == self._at + 1 and self._run is not None and self._run.round is not None
            saved = self._run.round if going_on and self._run is not None else self.workspace.begin()
        self._at = index
        if self._run is not None and self._rotation is cosine_1TC:
            cosine_TR, sine_TR = self._run.cosine_TR, self._run.sine_TR
        else:
            stream_dtype = self._blocks[0].tools.stream_dtype
            cosine_TR, sine_TR = (
                item[0, :, :num_pairs].to(stream_dtype).contiguous() for item in (cosine_1TC, sine_1TC)
            )
        self._rotation = cosine_1TC
        self._run = Pass(kwargs["forest"], cosine_TR, sine_TR, saved, self._recompute)
        return self._run


def without_kernels(element: native.Element, device: str) -> str:
    """Why a kind of device has no kernels for the layers; "" when they are there (a CPU's are compiled for that)."""
    if device != "cpu":
        return gpu.refusal(vars(torch)[element])
    return native.refusal("pointwise", element) or native.refusal("attention", element)


def alone(problem: str) -> str:
    """What one process finds is what all find."""
    return problem


def fuse(
    decoder: nn.Module,
    probe: Callable[[], Tensor],
    *,
    dtype: torch.dtype,
    recompute: str = "none",
    num_rows: int = 0,
    agree: Callable[[str], str] = alone,
) -> Fusion:
    """Put blocks in the place of all layers of a decoder, or of none.

    Args:
        decoder: a transformers decoder: its `layers` are replaced.
        probe: runs it once on a few tokens of several segments, under `no_grad`, with `forest` among its arguments.
        dtype: of the products; the residual stream is fp32 (fp64 for an fp64 model).
        recompute: what the backward makes again, a key of `RECOMPUTE`.
        num_rows: tokens for which memory is laid out at once; more of them make it grow.
        agree: takes this process's problem ("" for none) and gives that of all: where one cannot, none does.
    """
    fusion = Fusion(recompute, num_rows, next(decoder.parameters()).device)
    layers = dict(decoder.named_children()).get("layers")
    problem = ""
    try:
        if not isinstance(layers, nn.ModuleList):
            raise Unsupported(f"{type(decoder).__name__} has no list of layers", hint=PLAIN)
        with _awake(layers):
            parts = []  # all of them before the probe, which other models may not stand
            for layer in layers:
                parts.append(_parts(layer, dtype))
                return_freed_memory()
            seen = _watch(layers, probe)
            fused = [
                _fused(layer, part, call, fusion, dtype) for layer, part, call in zip(layers, parts, seen, strict=True)
            ]
            with torch.no_grad():
                for layer, call in zip(fused, seen, strict=True):
                    _verify(layer, call, TOLERANCE.get(dtype, TIGHT))
    except gpu.failures(Unsupported) as error:
        problem = error.message if isinstance(error, Unsupported) else f"this GPU does not run the kernels ({error})"
    fusion.problem = agree(problem)
    if fusion.problem or not isinstance(layers, nn.ModuleList):
        return fusion
    fusion.refresh(frozen=True)  # of up-projections that slept the copies still hold what `_awake` drew
    for index, layer in enumerate(fused):
        layers[index] = layer
    return fusion


@contextmanager
def _awake(layers: nn.ModuleList) -> Iterator[None]:
    """Up-projections that are zero, as new ones are, hold random values meanwhile: zeros would hide a wrong scale.

    What they add is about a third of what the base layer gives: large against roundings, as are its faults.
    """
    draw = torch.Generator().manual_seed(0)
    adapted = [part for part in layers.modules() if isinstance(part, AugmentedLoraLinear)]
    asleep = [(part, name) for part in adapted for name, up in part.lora_B.items() if not up.weight.any()]
    with torch.no_grad():
        for part, name in asleep:
            up, base = part.lora_B[name].weight, part.base_layer.weight
            size = float(base.std()) * (base.shape[1] / up.shape[1]) ** 0.5 / max(part.scaling[name], 1e-6) / 2
            up.copy_(torch.randn(up.shape, generator=draw) * size)
    try:
        yield
    finally:
        with torch.no_grad():
            for part, name in asleep:
                part.lora_B[name].weight.zero_()


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a layer: what went in, what reached its attention, and what came out."""

    index: int
    hidden_1TD: Tensor
    kwargs: dict[str, Any]
    attended: attention.Call
    output_1TD: Tensor


def _watch(layers: nn.ModuleList, probe: Callable[[], Tensor]) -> list[_Call]:
    calls: list[_Call] = []
    attended: list[attention.Call] = []

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if len(attended) != len(calls) + 1 or "position_embeddings" not in kwargs or not isinstance(output, Tensor):
            raise Unsupported(f"layer {len(calls)} is called in another way", hint=PLAIN)
        calls.append(_Call(len(calls), args[0], kwargs, attended[-1], output))

    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        with attention.watched(attended.append):
            probe()
    finally:
        for handle in handles:
            handle.remove()
    return calls


@dataclass(frozen=True, slots=True)
class _Parts:
    """A layer taken apart."""

    norm: StreamNorm
    heads: Heads
    rotates: bool
    qkv: JointLinear
    out: JointLinear
    head_norms: tuple[StreamNorm, ...]
    after_attention: tuple[StreamNorm, ...]
    before_mlp: StreamNorm
    gate_up: JointLinear
    down: JointLinear
    activation: Activation
    after_mlp: tuple[StreamNorm, ...]


def _parts(layer: nn.Module, dtype: torch.dtype) -> _Parts:
    """Raises:
    Unsupported: it has a part that is not known.
    """
    parts = dict(layer.named_children())
    _only(parts, ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"), optional=(
        "pre_feedforward_layernorm", "post_feedforward_layernorm", "resid_attn_dropout", "resid_mlp_dropout",
    ))  # fmt: skip
    if any(isinstance(part, nn.Dropout) and part.p for part in parts.values()):
        raise Unsupported("dropout on the residual stream", hint=PLAIN)
    stream_dtype = wide(dtype)
    norms = {name: StreamNorm(part, stream_dtype) for name, part in parts.items() if name.endswith("layernorm")}
    both_sides = "pre_feedforward_layernorm" in norms
    heads, qkv, out, head_norms = _attention_parts(parts["self_attn"], dtype, stream_dtype)
    gate_up, down, activation = _mlp_parts(parts["mlp"], dtype)
    return _Parts(
        norm=norms["input_layernorm"],
        heads=heads,
        rotates=bool(vars(parts["self_attn"]).get("use_rope", True)),  # SmolLM3: every fourth layer does not
        qkv=qkv,
        out=out,
        head_norms=head_norms,
        after_attention=(norms["post_attention_layernorm"],) if both_sides else (),
        before_mlp=norms["pre_feedforward_layernorm" if both_sides else "post_attention_layernorm"],
        gate_up=gate_up,
        down=down,
        activation=activation,
        after_mlp=(norms["post_feedforward_layernorm"],) if "post_feedforward_layernorm" in norms else (),
    )


def _fused(layer: nn.Module, parts: _Parts, call: _Call, fusion: Fusion, dtype: torch.dtype) -> FusedLayer:
    num_pairs, device = call.kwargs["position_embeddings"][0].shape[-1] // 2, call.hidden_1TD.device.type
    widths = (parts.qkv.num_inputs, parts.down.num_inputs, parts.heads.size, num_pairs)
    tools = Tools(
        pointwise(dtype, *widths, device=device),
        forest_attention.attention(dtype, parts.heads.size, device),
        fusion.workspace,
        dtype,
        parts.norm.scale_D.dtype,
    )
    attend = AttentionBlock(
        call.index, parts.norm, parts.qkv, parts.out, parts.heads, tools, parts.head_norms, parts.after_attention,
        parts.rotates,
    )  # fmt: skip
    feed = GatedBlock(call.index, parts.before_mlp, parts.gate_up, parts.down, parts.activation, tools, parts.after_mlp)
    fusion.add(attend, feed)
    return FusedLayer(layer, attend, feed, fusion)


def _attention_parts(
    module: nn.Module, dtype: torch.dtype, stream_dtype: torch.dtype
) -> tuple[Heads, JointLinear, JointLinear, tuple[StreamNorm, ...]]:
    parts, facts = dict(module.named_children()), vars(module)
    together = "qkv_proj" in parts
    inputs = ("qkv_proj",) if together else ("q_proj", "k_proj", "v_proj")
    _only(parts, (*inputs, "o_proj"), optional=("q_norm", "k_norm"))
    if strange := strange_names(module):
        raise Unsupported(f"an attention whose code names {', '.join(strange)}", hint=PLAIN)
    if facts.get("attn_logit_softcapping") or facts.get("attention_dropout"):
        raise Unsupported("a soft cap or dropout on attention scores", hint=PLAIN)
    if missing := [name for name in ("config", "head_dim", "scaling") if name not in facts]:
        raise Unsupported(f"an attention without {' and '.join(missing)}", hint=PLAIN)
    config, size = facts["config"], facts["head_dim"]
    window = facts["sliding_window"] if "sliding_window" in facts else config.to_dict().get("sliding_window")
    heads = Heads(config.num_attention_heads, config.num_key_value_heads, size, facts["scaling"], window or 0)
    qkv = JointLinear([parts[name] for name in inputs], dtype)
    out = JointLinear([parts["o_proj"]], dtype)
    if qkv.num_outputs != heads.query_width + 2 * heads.key_width or out.num_inputs != heads.query_width:
        raise Unsupported("an attention of other sizes than its configuration says", hint=PLAIN)
    norms = tuple(StreamNorm(parts[name], stream_dtype) for name in ("q_norm", "k_norm") if name in parts)
    if any(norm.scale_D.shape[0] != size for norm in norms) or len(norms) == 1:
        raise Unsupported("a norm over all query heads together", hint=PLAIN)
    return heads, qkv, out, norms


def _mlp_parts(module: nn.Module, dtype: torch.dtype) -> tuple[JointLinear, JointLinear, Activation]:
    parts = dict(module.named_children())
    inputs = ("gate_up_proj",) if "gate_up_proj" in parts else ("gate_proj", "up_proj")
    _only(parts, (*inputs, "down_proj"), optional=("act_fn", "activation_fn"))
    act = next((parts[name] for name in ("act_fn", "activation_fn") if name in parts), None)
    gate_up, down = JointLinear([parts[name] for name in inputs], dtype), JointLinear([parts["down_proj"]], dtype)
    if act is None or gate_up.num_outputs != 2 * down.num_inputs:
        raise Unsupported("a feed-forward layer without gate", hint=PLAIN)
    activation = activation_of(act)
    if activation is None:
        raise Unsupported(f"the activation {type(act).__name__}", hint=PLAIN)
    return gate_up, down, activation


def _only(parts: Mapping[str, nn.Module], needed: tuple[str, ...], *, optional: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in parts]
    strange = [name for name in parts if name not in (*needed, *optional)]
    if missing or strange:
        words = [*(f"no {name}" for name in missing), *(f"a part named {name}" for name in strange)]
        raise Unsupported(f"a layer with {' and '.join(words)}", hint=PLAIN)


def _verify(layer: FusedLayer, call: _Call, tolerance: float) -> None:
    """The blocks against the layer they stand for, on the same input.

    What reaches the attention is compared by itself: in the layer's update, a wrong rotation may be one percent.

    Raises:
        Unsupported: they do not agree.
    """
    heads, attended = layer.attend.heads, call.attended
    if heads.window != attended.window or heads.scale != attended.scale:
        raise Unsupported(f"layer {call.index} attends in another way (a window or a scale)", hint=PLAIN)
    found = layer(call.hidden_1TD, **{**call.kwargs, "rows": None})
    error = _difference(found, call.output_1TD, call.hidden_1TD)
    run = layer.run_of(call.kwargs)
    raw_TC, _ = layer.attend.project(call.hidden_1TD[0], run)
    query_TC, key_TC, _ = heads.split(layer.attend.attend(raw_TC, run)[0])
    for ours, theirs in ((query_TC, attended.query_1HTD), (key_TC, attended.key_1GTD)):
        error = max(error, _difference(ours, theirs[0].transpose(0, 1).flatten(1), torch.zeros(())))
    if not error < tolerance:  # so that NaN is refused too
        raise Unsupported(f"layer {call.index} computes something else (it differs by {error:.1%})", hint=PLAIN)


def _difference(found: Tensor, wanted: Tensor, start: Tensor) -> float:
    """As a share of how far `wanted` is from `start`."""
    return float((found.to(start.dtype) - wanted.to(start.dtype)).norm() / (wanted.to(start.dtype) - start).norm())
