"""Kernels of a GPU behind the interfaces of `ops/pointwise.py`, `ops/forest_attention.py` and `ops/decode.py`.

Their twins are those files' plain ones.
"""

from __future__ import annotations

import importlib.util
import sys

import torch

SHORT = (torch.bfloat16, torch.float16)  # the types in which GPUs multiply fast


def refusal(dtype: torch.dtype) -> str:
    """Why the kernels cannot be had; "" when they can."""
    if dtype not in SHORT:
        return f"those of a GPU compute in bf16 or fp16, not in {str(dtype).removeprefix('torch.')}"
    return "" if importlib.util.find_spec("triton") else "triton is not installed"


def failures(*expected: type[Exception]) -> tuple[type[Exception], ...]:
    """Those that are expected, and what Triton raises where a card cannot run a kernel.

    It has too little shared memory for it, or lacks an instruction. To be asked when something was raised.
    """
    errors = sys.modules.get("triton.errors")  # without it nothing of Triton's has run
    return expected if errors is None else (*expected, vars(errors)["TritonError"])
