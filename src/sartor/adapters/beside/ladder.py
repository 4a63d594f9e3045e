"""Ladder Side-Tuning's networks, and it as a method of PEFT's. `lst.py` says what it is.

`Ladder` is what all have in common; `DecoderLadder` stands beside a Llama-like decoder, `StackLadder` beside one of the
two stacks of a T5.

Shapes: B rows · T tokens · N wanted tokens · D hidden size of the backbone · E of the side network · L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sartor.adapters import registration
from sartor.adapters.beside import pruning, tuner
from sartor.adapters.beside.reading import Reading, Tensor, device_of, layers_of, make_room
from sartor.adapters.beside.sizes import narrow_head
from sartor.errors import Unsupported

NAME = "sartor_lst"
#: The gates' temperature (Sung et al. 2022, §3.2).
TEMPERATURE = 0.1


@dataclass
class LadderConfig(tuner.BesideConfig):
    """`reduction` is r; `drop_layers` have no side layer; `add` keeps the backbone's own answer."""

    reduction: int = 8
    drop_layers: list[int] | None = None
    add: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = registration.type_named(NAME)


class Ladder(nn.Module):
    """A network of 1/r of the width, whose layers read what leaves those of the backbone.

    One gate a layer, also for those that are dropped, as the authors' code has it. `rotated`: its heads are.
    """

    ATTENDS = True
    head_sizes: tuple[int, int]
    rotated: bool
    up: nn.Linear  # not beside an encoder, which answers nothing

    def __init__(self, decoder: Any, config: Any, widths: tuple[int, int]) -> None:
        super().__init__()
        layers = layers_of(decoder)
        self.layers = [number for number in range(len(layers)) if number not in (config.drop_layers or ())]
        self.add = config.add
        self.first = nn.Linear(*widths)
        self.downs = nn.ModuleList(nn.Linear(*widths) for _ in self.layers)
        self.gates_L = nn.Parameter(torch.zeros(len(layers)))

    def finish(self, decoder: Any, norm: nn.Module, blocks: Sequence[Any], side_norm: nn.Module) -> None:
        """Take the side layers in, and begin as the pruned backbone."""
        self.blocks = nn.ModuleList(blocks)
        self.norm = copy.deepcopy(side_norm)
        self.to(device=device_of(decoder), dtype=torch.float32)
        pruning.begin(self, decoder, norm, pruning.magnitudes(decoder))

    def climb(self, reading: Reading, run: Callable[[Any, int, Tensor], Tensor]) -> Tensor:
        """What leaves the last side layer, (B, T, E). `run(block, number, side)` runs the one at a layer."""
        gates_L = torch.sigmoid(self.gates_L / TEMPERATURE)
        side_BTE: Tensor = self.first(reading.states[0].to(gates_L.dtype))
        for number, down, block in zip(self.layers, self.downs, self.blocks, strict=True):
            read_BTE = down(reading.states[number + 1].to(gates_L.dtype))
            mixed_BTE = gates_L[number] * side_BTE + (1 - gates_L[number]) * read_BTE
            side_BTE = run(block, number, mixed_BTE)
        return side_BTE

    def answer(self, own_BND: Tensor, side_BNE: Tensor) -> Tensor:
        """For the head, from the backbone's own answer and what leaves the side layers."""
        update_BND: Tensor = self.up(self.norm(side_BNE))
        kept_BND = own_BND.to(update_BND.dtype) if self.add else 0.0
        return (kept_BND + update_BND).to(own_BND.dtype)

    def widened(self, widths: tuple[int, int]) -> nn.Linear:
        """The way out, which begins at zero."""
        up = nn.Linear(widths[1], widths[0])
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        return up


class DecoderLadder(Ladder):
    """Beside a Llama-like decoder: its layers are of the decoder's own class, with keys in the same cache."""

    rotated = True

    def __init__(self, decoder: Any, config: Any) -> None:
        side, layers = narrowed(decoder.config, config.reduction), layers_of(decoder)
        widths = (decoder.config.hidden_size, side.hidden_size)
        super().__init__(decoder, config, widths)
        self._configs = (side, decoder.config)
        self.head_sizes = (side.head_dim, layers[0].self_attn.head_dim)
        blocks = [type(layers[number])(side, number) for number in self.layers]
        for place, block in enumerate(blocks):
            block.self_attn.layer_idx = len(layers) + place  # where its keys are in a cache
        self.up = self.widened(widths)
        self.finish(decoder, decoder.norm, blocks, blocks[0].input_layernorm)

    def forward(self, reading: Reading, norm: nn.Module) -> Tensor:
        side, backbone = self._configs
        side._attn_implementation = backbone._attn_implementation  # which may have been changed since
        cache = reading.calls[0].named.get("cache")
        if cache is not None:
            make_room(cache, len(self.gates_L), self.layers)

        def run(block: Any, number: int, side_BTE: Tensor) -> Tensor:
            arguments = reading.arguments(number)
            arguments["position_embeddings"] = rotation(arguments, *self.head_sizes)
            result_BTE: Tensor = block(side_BTE, **arguments)
            return result_BTE

        side_BTE = self.climb(reading, run)
        return self.answer(norm(reading.wanted(reading.states[-1])), reading.wanted(side_BTE))


class StackLadder(Ladder):
    """Beside a stack of a T5. That of the encoder (`encoder` None) keeps what leaves it, for that of the decoder."""

    rotated = False

    def __init__(self, stack: Any, config: Any, encoder: StackLadder | None) -> None:
        side = copy.deepcopy(stack.config)
        side.d_model, side.d_ff = side.d_model // config.reduction, side.d_ff // config.reduction
        side.d_kv = max(1, side.d_kv // config.reduction)
        widths = (stack.config.d_model, side.d_model)
        super().__init__(stack, config, widths)
        self._configs = (side, stack.config)
        self._encoder = (encoder,)  # in a tuple, so that it is not owned twice
        self._encoded: tuple[Tensor, Tensor] | None = None  # what left the encoder, (B, S, D), and its ladder
        self.head_sizes = (side.d_kv, stack.config.d_kv)
        layers = layers_of(stack)
        blocks = [
            type(layers[number])(side, has_relative_attention_bias=place == 0, layer_idx=len(layers) + place)
            for place, number in enumerate(self.layers)
        ]
        if encoder is not None:
            self.up = self.widened(widths)
        self.finish(stack, stack.final_layer_norm, blocks, blocks[0].layer[0].layer_norm)
        if self.layers[0] > 0:  # a layer without positions: the first one's are taken
            positions = [part for layer in (layers[0], blocks[0]) for part in _positions(layer)]
            positions[1].data.copy_(positions[0])

    def forward(self, reading: Reading, norm: nn.Module) -> Tensor:
        side, backbone = self._configs
        side._attn_implementation = backbone._attn_implementation
        encoder, biases = self._encoder[0], [None, None]
        encoded_BSE = None if encoder is None else encoder.encoding(reading.calls[0].positional[2])
        cache = reading.calls[0].named.get("cache")
        for part in () if cache is None else (cache.self_attention_cache, cache.cross_attention_cache):
            make_room(part, len(self.gates_L), self.layers)

        def run(block: Any, number: int, side_BTE: Tensor) -> Tensor:
            call = reading.calls[number]
            mask, _, _, encoded_mask, _ = call.positional
            result_BTE: Tensor
            result_BTE, *biases[:] = block(
                side_BTE, mask, biases[0], encoded_BSE, encoded_mask, biases[1], **dict(call.named)
            )
            return result_BTE

        side_BTE = self.climb(reading, run)
        own_BTD: Tensor = norm(reading.states[-1])
        if encoder is not None:
            return self.answer(own_BTD, side_BTE)
        self._encoded = (own_BTD, self.norm(side_BTE))
        return own_BTD

    def encoding(self, states_BSD: Tensor) -> Tensor:
        """What left the ladder when these states left the encoder; in beam search each row is there several times.

        Raises:
            Unsupported: the encoder ran on something else since.
        """
        if self._encoded is not None and len(states_BSD) % len(self._encoded[0]) == 0:
            own_BSD, side_BSE = self._encoded
            times = len(states_BSD) // len(own_BSD)
            if self.training or torch.equal(states_BSD[::times], own_BSD):  # dropout came between
                return side_BSE.repeat_interleave(times, dim=0)
        raise Unsupported("an encoding that its ladder did not see", hint="run the encoder of this model on it first")


class LadderModel(tuner.BesideModel):
    prefix = f"{NAME}_"

    def network(self, config: Any, decoder: Any, adapter_name: str) -> nn.Module:
        """A ladder pruned from the decoder; from both stacks of a T5, the encoder's first."""
        if "norm" in dict(decoder.named_children()):
            return DecoderLadder(decoder, config)
        encoder = self.model.get_encoder()
        return StackLadder(
            decoder, config, None if decoder is encoder else encoder.final_layer_norm.beside[adapter_name]
        )


def narrowed(config: Any, reduction: int) -> Any:
    """The configuration of a decoder's side network: 1/r of each width, as many heads."""
    side = copy.deepcopy(config)
    side.hidden_size //= reduction
    side.intermediate_size //= reduction
    facts = config.to_dict()
    size = facts.get("head_dim") or config.hidden_size // config.num_attention_heads
    side.head_dim = narrow_head(size, reduction)
    if "query_pre_attn_scalar" in facts:  # Gemma's word for the head size that scores are scaled by
        side.query_pre_attn_scalar = max(1, config.query_pre_attn_scalar * side.head_dim // size)
    return side


def rotation(arguments: Mapping[str, Any], size: int, of: int) -> Sequence[Tensor]:
    """Cosine and sine for narrow heads: those of the frequencies that `pruning.pairs` keeps.

    base^(-2i / size) is what i · of / size is to heads of size `of`: the frequencies of a rotary embedding of `size`.
    """
    cosine, sine = arguments["position_embeddings"]
    kept = pruning.pairs(cosine.shape[-1], cosine.shape[-1] * size // of, cosine.device)
    return cosine[..., kept], sine[..., kept]


def _positions(layer: nn.Module) -> list[nn.Parameter]:
    return [item for name, item in layer.named_parameters() if "relative_attention_bias" in name]


def register() -> None:
    """Make it known to PEFT."""
    registration.register(NAME, LadderConfig, LadderModel)
