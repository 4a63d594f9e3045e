"""A base model loaded for answering: the one place where its weights come from, and where it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sartor import base
from sartor.hardware import look, with_gpu
from sartor.plan import Quantized


def load_base(folder: Path, dtype: torch.dtype, quantize: Quantized = "none", *, attention: str = "") -> Any:
    """The model in a folder, ready to answer in a number format; `attention` as in `base.load_base`.

    Of a base that was trained on with packed weights, it holds the numbers that those stand for.
    """
    return base.load_base(folder, dtype, quantize, attention=attention).eval()


def dtype_for(folder: Path, asked: str | None) -> torch.dtype:
    """The number format to compute in: as asked, or the device's, for the proof and for serving alike.

    Without bf16 products bf16 is slower than fp32.
    """
    chosen: torch.dtype = vars(torch)[asked or ("bfloat16" if with_gpu(look(folder)).has_bf16 else "float32")]
    return chosen


def device_for() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
