"""Prefix tuning: trained keys and values stand before the text in the attention of every layer.

Li & Liang 2021 (arXiv 2101.00190), §4.2-4.3: a network makes them while they are trained (eq. 4) and is thrown away.
`p_tuning_v2` (Liu et al. 2021, arXiv 2110.07602, §3.2-3.3) trains them themselves, without a network. Both are PEFT's.

They start as the keys and values of real text, as the paper has it (§7.4) and as PEFT's benchmark shows: 41.6 % of
answers right, 35.8 % from zeros, 18.6 % from random numbers. The text is the beginning of training examples, and the
network's last layer is solved for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.changes import Changes, Prefix
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import by_name
from sartor.adapters.saving import export as export
from sartor.adapters.saving import read_weights
from sartor.adapters.virtual import SAVED, num_virtual, preset
from sartor.types import Frozen

if TYPE_CHECKING:
    import torch

    from sartor.hub import Shape
    from sartor.types import Batch

TRAINS = "adapter"
PRESETS = {
    "prefix_tuning": preset(
        summary="keys and values before the text in every layer, made by a small network",
        paper="arXiv 2101.00190",
        prefix=True,
    ),
    "p_tuning_v2": preset(
        summary="keys and values before the text in every layer, trained themselves",
        paper="arXiv 2110.07602",
        settings={"network": False},
        learning_rate=100.0,  # 40 updates of SmolLM2 on 8 labels end at a loss of 0.5, and of 1.7 at 10
        prefix=True,
    ),
}
PEFT_TYPES = ("PREFIX_TUNING",)


class Config(Frozen):
    """`width` is that of the network of `prefix_tuning`."""

    tokens: int = Field(20, ge=1, le=1000, description="Virtual tokens before the text.")
    network: bool = by_name(True, "A network makes their keys and values; without one, these are trained themselves.")
    width: int = Field(512, ge=1, description="Of that network's hidden layer.")


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new prefix of zeros; `calibrate` makes it that of a text."""
    from peft import PrefixTuningConfig, get_peft_model

    peft_config = PrefixTuningConfig(
        num_virtual_tokens=config.tokens,
        prefix_projection=config.network,
        encoder_hidden_size=config.width if config.network else None,  # without a network PEFT ignores it
        init_weights="zero",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, peft_config)


def calibrate(model: Any, config: Config, batches: Sequence[Batch]) -> None:
    """Set the prefix to the keys and values that the base has for the first tokens of its training text."""
    import torch
    from torch import nn

    if not batches:
        return
    encoder = model.prompt_encoder["default"]
    with torch.no_grad():
        wanted_PF = _keys_and_values(model.get_base_model(), batches, config.tokens)
        if not config.network:
            encoder.load_prompt_embeddings(wanted_PF)
            return
        *lower, last = encoder.transform
        hidden_PN = nn.Sequential(*lower)(encoder.embedding.weight)
        ones_P1 = torch.ones_like(hidden_PN[:, :1])
        solved_NF = torch.linalg.lstsq(torch.cat([hidden_PN, ones_P1], dim=1), wanted_PF, driver="gelsd").solution
        last.weight.copy_(solved_NF[:-1].t())
        last.bias.copy_(solved_NF[-1])


def _keys_and_values(base: Any, batches: Sequence[Batch], num_tokens: int) -> torch.Tensor:
    """Those of the first tokens of the batches, in PEFT's order: (P, layers · (key, value) · width), fp32."""
    import torch

    text = torch.cat([torch.from_numpy(batch.tokens_T) for batch in batches])
    tokens_1P = text.repeat(-(-num_tokens // len(text)))[None, :num_tokens]
    ends = torch.tensor([0, num_tokens], dtype=torch.int32)
    cache = base(input_ids=tokens_1P, use_cache=True, cu_seq_lens_q=ends, max_length_q=num_tokens).past_key_values
    pairs = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    return torch.cat([part_1GPC[0].transpose(0, 1).flatten(1) for part_1GPC in pairs], dim=1).float()


def live_prefix(model: Any, config: Config) -> Prefix:
    """What the encoder gives now, in the type that the base is computed in."""
    layers = model.get_prompt(batch_size=1).layers
    keys, values = (
        [part_1GPC[0].transpose(0, 1).flatten(1) for part_1GPC in parts]
        for parts in ([layer.keys for layer in layers], [layer.values for layer in layers])
    )
    return Prefix(keys, values)


HOOKS = Hooks(num_batches=1, calibrate=calibrate, num_virtual=num_virtual, beginning=live_prefix)


def changes(base: Any, folder: Path) -> Changes:
    """The keys and values as they were saved."""
    saved_PF = read_weights(folder)[SAVED]
    parts = saved_PF.chunk(2 * base.config.get_text_config().num_hidden_layers, dim=1)
    return Changes(beginning=Prefix(parts[0::2], parts[1::2]))


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: keys and values of all layers, or tokens and the two layers of the network."""
    width = shape.num_kv_heads * shape.head_dim
    given = 2 * shape.num_layers * width
    if not config.network:
        return config.tokens * given
    return config.tokens * width + (width + 1) * config.width + (config.width + 1) * given
