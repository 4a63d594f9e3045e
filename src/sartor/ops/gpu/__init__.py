"""Kernels of a GPU behind the interfaces of `ops/pointwise.py`, `ops/forest_attention.py` and `ops/decode.py`.

Their twins are those files' plain ones.
"""

from __future__ import annotations

import importlib.util

import torch

SHORT = (torch.bfloat16, torch.float16)  # the types in which GPUs multiply fast


def refusal(dtype: torch.dtype) -> str:
    """Why the kernels cannot be had; "" when they can."""
    if dtype not in SHORT:
        return f"those of a GPU compute in bf16 or fp16, not in {str(dtype).removeprefix('torch.')}"
    return "" if importlib.util.find_spec("triton") else "triton is not installed"
