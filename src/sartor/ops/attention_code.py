"""What the code of an attention layer names: numbers of a few tokens need not show a clip, or a scale by position, as
OLMo and Ministral 3 have them."""

from __future__ import annotations

import inspect

from torch import nn

#: What Llama's code names, and what other families that are known do beside it.
LLAMA = {
    *("ALL_ATTENTION_FUNCTIONS", "_attn_implementation", "apply_rotary_pos_emb", "attention_dropout", "config"),
    *("contiguous", "eager_attention_forward", "get_interface", "head_dim", "k_proj", "layer_idx", "o_proj", "q_proj"),
    *("reshape", "scaling", "shape", "training", "transpose", "update", "v_proj", "view"),
}
QWEN = {"q_norm", "k_norm", "sliding_window"}
PHI = {"getattr", "num_attention_heads", "num_key_value_heads", "qkv_proj"}
OTHERS = {"attn_logit_softcapping", "use_rope"}  # Gemma 2, SmolLM3


def strange_names(attention: nn.Module) -> list[str]:
    """What a layer's code names beyond these; sorted."""
    named = inspect.unwrap(type(attention).forward).__code__.co_names
    return sorted(set(named) - LLAMA - QWEN - PHI - OTHERS)
