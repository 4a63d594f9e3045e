"""Kernels of a GPU behind the interfaces of `ops/pointwise.py`, `ops/forest_attention.py` and `ops/decode.py`.

Their twins are those files' plain ones.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache

import torch

from sartor.errors import first_line

OLDEST = (7, 0)  # compute capability
SHORT = (torch.bfloat16, torch.float16)  # the types in which GPUs multiply fast


def refusal(dtype: torch.dtype) -> str:
    """Why the kernels cannot be had; "" when they can."""
    if dtype not in SHORT:
        return f"those of a GPU compute in bf16 or fp16, not in {str(dtype).removeprefix('torch.')}"
    return problem()


@cache
def problem() -> str:
    """Why nothing of Triton's can run on this GPU, ours, Liger's or torch.compile's; "" when it can.

    It is started once to see: it compiles its own launcher, and looks for a compiler, Python's headers and the driver.
    """
    if not importlib.util.find_spec("triton"):
        return "triton is not installed"
    if not torch.cuda.is_available():  # its interpreter
        return ""
    if torch.cuda.get_device_capability() < OLDEST:
        return "this GPU is older than those that Triton compiles for"
    try:
        importlib.import_module("triton.runtime.driver").driver.active.utils  # noqa: B018 - it is made when looked at
    except Exception as error:  # noqa: BLE001 - it has a class of its own for no failure
        return f"triton does not start: {first_line(error)}"
    return ""


def failures(*expected: type[Exception]) -> tuple[type[Exception], ...]:
    """Those that are expected, and what Triton raises where a card cannot run a kernel.

    It has too little shared memory for it, or lacks an instruction. To be asked when something was raised.
    """
    errors = sys.modules.get("triton.errors")  # without it nothing of Triton's has run
    return expected if errors is None else (*expected, vars(errors)["TritonError"])
