"""Virtual tokens at the beginning of every segment: at positions 0 to P - 1, the text from position P on.

PEFT puts them before a row and drops the positions, which in a flat packed row is wrong without an error. Here they are
tokens of the batch with ids below zero: virtual token i is -1 - i. So packing, shared beginnings (one copy a
micro-batch, of which all segments are children), filling up and cutting treat them like any others, and only the
embedding knows them. Keys and values that stand for tokens reach transformers' layers as they are, and only move the
text.

Shapes: T tokens · P virtual tokens · D hidden size · G width of all key heads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from sartor.adapters.changes import Prefix
from sartor.types import Batch


def inserted(batch: Batch, num_virtual: int) -> Batch:
    """The batch with virtual tokens at the beginning of each segment that is not empty."""
    lengths_S = np.diff(batch.offsets_S1)
    added_S = np.where(lengths_S > 0, num_virtual, 0)
    offsets_S1 = np.append(0, np.cumsum(lengths_S + added_S)).astype(batch.offsets_S1.dtype)
    is_text_T = np.ones(offsets_S1[-1], dtype=bool)
    virtual = np.arange(num_virtual)
    is_text_T[(offsets_S1[:-1][lengths_S > 0][:, None] + virtual).ravel()] = False
    num_segments = int((lengths_S > 0).sum())

    def spread(text_T: np.ndarray, before_P: np.ndarray) -> np.ndarray:
        whole_T = np.empty(len(is_text_T), dtype=text_T.dtype)
        whole_T[is_text_T], whole_T[~is_text_T] = text_T, np.tile(before_P, num_segments)
        return whole_T

    nothing = np.zeros(num_virtual)
    return replace(
        batch,
        tokens_T=spread(batch.tokens_T, -1 - virtual),
        positions_T=spread(batch.positions_T + num_virtual, virtual),
        targets_T=spread(batch.targets_T, nothing),
        weights_T=spread(batch.weights_T, nothing),
        offsets_S1=offsets_S1,
    )


def moved(batch: Batch, num_virtual: int) -> Batch:
    """The batch with its text at the positions after the virtual tokens, which are not in it."""
    return replace(batch, positions_T=batch.positions_T + num_virtual)


def embed(text: torch.nn.Module, tokens_T: torch.Tensor, virtual_PD: torch.Tensor) -> torch.Tensor:
    """The embeddings (T, D) of tokens of which some are virtual, in the type of the text's."""
    text_TD: torch.Tensor = text(tokens_T.clamp_min(0))
    own_TD = F.embedding((-1 - tokens_T).clamp_min(0), virtual_PD).to(text_TD.dtype)
    return torch.where((tokens_T < 0)[:, None], own_TD, text_TD)


def cached(prefix: Prefix, config: Any, dtype: torch.dtype) -> DynamicCache:
    """A prefix as transformers' own cache, for one segment of a model with this configuration."""
    text = config.get_text_config()
    num_heads = text.to_dict().get("num_key_value_heads") or text.num_attention_heads
    cache = DynamicCache()
    for layer, pair in enumerate(zip(prefix.keys_PG, prefix.values_PG, strict=True)):
        key, value = (part_PG.to(dtype).view(len(part_PG), num_heads, -1).transpose(0, 1)[None] for part_PG in pair)
        cache.update(key, value, layer)
    return cache
