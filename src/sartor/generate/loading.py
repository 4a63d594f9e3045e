"""A base model loaded for answering: the one place where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from sartor.hardware import look


def load_base(base: Path, dtype: torch.dtype, attention: str) -> Any:
    """The model in a folder, ready to answer in a number format; `attention` is one of transformers' names."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation=attention, local_files_only=True, trust_remote_code=False
    )
    return model.eval()


def dtype_for(base: Path, asked: str | None) -> torch.dtype:
    """The number format to compute in: as asked, or the processor's, for the proof and for serving alike.

    Without bf16 products bf16 is slower than fp32.
    """
    chosen: torch.dtype = vars(torch)[asked or ("bfloat16" if look(base).has_bf16 else "float32")]
    return chosen
