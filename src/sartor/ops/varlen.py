"""Flat attention on a GPU: torch's variable-length flash attention behind the interface of `ops/attention.py`.

That file is the plain twin, and computes what lies on the CPU. FlashAttention 3 is used where it is installed.

Shapes: H query heads · G key/value heads · T tokens · D head size · P tokens of a prefix · K keys · S segments.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from sartor.errors import Unsupported
from sartor.ops import attention

CAUSAL = (-1, 0)  # any number of tokens to the left, none to the right
HOPPER = (9, 0)  # FlashAttention 3 is written for this and no other
LARGEST_HEAD = 256  # what flash attention takes
TYPES = (torch.bfloat16, torch.float16)
#: What `varlen_attn` takes: torch 2.11 lets query heads share keys without being told.
KNOWN = frozenset(inspect.signature(varlen_attn).parameters)


def flat_attention(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    prefix: attention.Prefix | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment, causally: (1, T, H, D).

    On a CPU, and for what flash attention does not take, this is `attention.flat_attention`. `max_length_q` is an upper
    bound of the segments' lengths; it keeps the GPU from being asked for them.

    Raises:
        Unsupported: what `attention.flat_attention` refuses.
    """
    inputs = (query_1HTD, key_1GTD, value_1GTD, attention_mask)
    if not query_1HTD.is_cuda or any(_beyond(query_1HTD, key_1GTD, value_1GTD).values()):
        return attention.flat_attention(module, *inputs, cu_seq_lens_q=cu_seq_lens_q, prefix=prefix, **rest)
    earlier = () if prefix is None else attention.prefix_of(module, prefix, value_1GTD)
    asked = prepared(*inputs, cu_seq_lens_q=cu_seq_lens_q, max_length_q=max_length_q, earlier=earlier, **rest)
    output_THD = varlen_attn(**{name: value for name, value in asked.items() if name in KNOWN})
    assert isinstance(output_THD, torch.Tensor)  # a tuple only where the log-sum-exp is asked for
    return output_THD[None], None


def prepared(
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None,
    max_length_q: int | None,
    scaling: float | None = None,
    earlier: tuple[torch.Tensor, ...] = (),
    **rest: Any,
) -> dict[str, Any]:
    """The arguments of `varlen_attn`: (T, H, D) instead of (1, H, T, D), and everything in the type of the values.

    `earlier`: keys and values (G, P, D) that stand before those of every segment.

    Raises:
        Unsupported: what `attention.flat_attention` refuses, fp32, heads larger than 256, or keys and values of
            unequal size.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise Unsupported("flat attention without segments", hint="pass cu_seq_lens_q and max_length_q")
    longest = max_length_q + sum(part.shape[1] for part in earlier[:1])
    also = _beyond(query_1HTD, key_1GTD, value_1GTD)
    attention.refuse_beyond(*attention.FLAT, query_1HTD, attention_mask, longest=longest, also=also, **rest)
    dtype = value_1GTD.dtype  # rotation may leave queries and keys in fp32
    query, key, value = (part[0].transpose(0, 1).to(dtype) for part in (query_1HTD, key_1GTD, value_1GTD))
    asked = {
        "query": query,
        "key": key,
        "value": value,
        "cu_seq_q": cu_seq_lens_q,
        "cu_seq_k": cu_seq_lens_q,
        "max_q": max_length_q,
        "max_k": max_length_q,
        "scale": scaling,
        "window_size": CAUSAL,
        "enable_gqa": query_1HTD.shape[1] != key_1GTD.shape[1],
    }
    return asked | _preceded(earlier, asked) if earlier else asked


def _beyond(query_1HTD: torch.Tensor, key_1GTD: torch.Tensor, value_1GTD: torch.Tensor) -> dict[str, bool]:
    """What flash attention does not take, and whether it is so here."""
    size = query_1HTD.shape[-1]
    return {
        f"heads of {size}": size > LARGEST_HEAD or size % 8 > 0,
        f"{value_1GTD.dtype} on a GPU": value_1GTD.dtype not in TYPES,
        **attention.unequal(key_1GTD, value_1GTD),
    }


def _preceded(earlier: tuple[torch.Tensor, ...], asked: dict[str, Any]) -> dict[str, Any]:
    """What changes where keys and values stand before every segment.

    The kernel takes queries for the last of their segment, so all of them see these. No length leaves the GPU.
    """
    offsets_S1, num_prefix = asked["cu_seq_q"], earlier[0].shape[1]
    num_segments = len(offsets_S1) - 1
    ends_S1 = offsets_S1 + num_prefix * torch.arange(num_segments + 1, dtype=offsets_S1.dtype, device=offsets_S1.device)
    places_K = torch.arange(asked["key"].shape[0] + num_segments * num_prefix, device=offsets_S1.device)
    segment_K = torch.bucketize(places_K, ends_S1[1:], right=True)
    within_K = places_K - ends_S1[segment_K]
    sources_K = torch.where(within_K < num_prefix, within_K, within_K + offsets_S1[segment_K])
    whole = {
        name: torch.cat([own_GPD.transpose(0, 1).to(asked[name].dtype), asked[name]])[sources_K]
        for name, own_GPD in zip(("key", "value"), earlier, strict=True)
    }
    return {**whole, "cu_seq_k": ends_S1, "max_k": asked["max_k"] + num_prefix}


def register() -> None:
    """Make this the `sartor_flat` of transformers, and FlashAttention 3 what it runs on, where it can. Safe twice."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability() == HOPPER:
        use_flash_attention_3()
    AttentionInterface.register(attention.NAME, flat_attention)


def use_flash_attention_3() -> bool:
    """Whether FlashAttention 3 is now in use: its package must be installed; else torch's own stays."""
    with contextlib.suppress(ImportError, RuntimeError):  # not installed, or built for another torch
        activate_flash_attention_impl("FA3")
    return current_flash_attention_impl() == "FA3"
