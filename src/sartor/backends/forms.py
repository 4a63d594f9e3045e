"""Bases beside decoders as torch models: how each form is opened, and what a padded forward of it gives.

Shape suffixes: B rows · L width · C labels · N supervised positions · V vocabulary · D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from transformers.utils import logging

from sartor.data.pad import padded, runs
from sartor.types import Form

Rows = Sequence[np.ndarray | Sequence[int]]
AUTO: dict[Form, Any] = {
    "classifier": AutoModelForSequenceClassification,
    "embedder": AutoModel,
    "seq2seq": AutoModelForSeq2SeqLM,
}


def open_model(folder: Path | str, form: Form, labels: Sequence[str], dtype: torch.dtype) -> Any:
    """A base in its form, in `dtype`. What the checkpoint lacks, such as a head for these labels, is drawn by torch's
    random numbers, so seed them before."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "trust_remote_code": False}
    if form == "classifier":
        settings |= {"ignore_mismatched_sizes": True, **_head(labels)}  # a head for other labels is replaced
    return AUTO[form].from_pretrained(folder, **settings)


def skeleton(folder: Path, form: Form, labels: Sequence[str]) -> Any:
    """The same without weights, on the meta device."""
    config = AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **(_head(labels) if form == "classifier" else {})
    )
    with torch.device("meta"):
        return AUTO[form].from_config(config)


def _head(labels: Sequence[str]) -> dict[str, Any]:
    """What a configuration says of the head of a classifier."""
    names = dict(enumerate(labels))
    backwards = {name: number for number, name in names.items()}
    return {"id2label": names, "label2id": backwards, "problem_type": "single_label_classification"}


def tensors(rows: Rows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as padded tokens (B, L) and their mask, on a device."""
    tokens_BL, mask_BL = padded(rows)
    return torch.from_numpy(tokens_BL).to(device), torch.from_numpy(mask_BL).to(device)


def label_logprobs(model: Any, rows: Rows, device: torch.device) -> torch.Tensor:
    """The log-probability of each label for each text, (B, C), fp32."""
    tokens_BL, mask_BL = tensors(rows, device)
    logits_BC = model(input_ids=tokens_BL, attention_mask=mask_BL).logits
    return torch.log_softmax(logits_BC.float(), dim=-1)


def answer_logits(model: Any, sources: Rows, answers: Rows, device: torch.device) -> torch.Tensor:
    """What an encoder-decoder makes of answers, each shifted to begin with the start token: logits (B, L, V)."""
    tokens_BL, mask_BL = tensors(sources, device)
    answers_BL, _ = tensors(answers, device)  # what follows an answer is seen by nothing in it
    logits: torch.Tensor = model(input_ids=tokens_BL, attention_mask=mask_BL, decoder_input_ids=answers_BL).logits
    return logits


def embeddings(model: Any, rows: Rows, device: torch.device, most_tokens: int = 0) -> torch.Tensor:
    """Each text as a vector of length 1: the mean of its last hidden states, as sentence encoders take it; (B, D) fp32.

    Texts of like length share a forward, of at most `most_tokens` tokens where that is not 0.
    """
    found: dict[int, torch.Tensor] = {}
    for run in runs([len(row) for row in rows]):
        many = max(1, most_tokens // len(rows[run[-1]])) if most_tokens else len(run)
        for start in range(0, len(run), many):
            places = run[start : start + many]
            tokens_BL, mask_BL = tensors([rows[place] for place in places], device)
            hidden_BLD = model(input_ids=tokens_BL, attention_mask=mask_BL).last_hidden_state.float()
            mean_BD = (hidden_BLD * mask_BL[:, :, None]).sum(1) / mask_BL.sum(1, keepdim=True)
            found |= zip(places, torch.nn.functional.normalize(mean_BD, dim=-1), strict=True)
    return torch.stack([found[place] for place in range(len(rows))])
