"""The judge: losses of chosen rows by plain transformers, one row at a time, untrained or with an exported adapter.

LoRA starts as the identity, so the untrained model's loss is what every contestant must see in its first step, whatever
it packs or pads. Prints {dtype: {row: sum over its supervised tokens, nats}}. `--options`: `rows` chooses, `dtypes`
the precisions, `adapter` a folder that PEFT loads (full tuning: a whole model), which proves the export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from common import IGNORED, Job, read_job
from transformers import AutoModelForCausalLM


def load(job: Job, dtype: torch.dtype) -> Any:
    """The base model, with the exported adapter on it if one is named."""
    folder = Path(job.options["adapter"]) if "adapter" in job.options else None
    if folder is not None and not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, local_files_only=True).eval()
    if folder is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder).eval()


@torch.no_grad()
def losses(job: Job, dtype: torch.dtype) -> dict[int, float]:
    """The loss of each chosen row; the softmax in fp32, as everyone takes it."""
    model = load(job, dtype)
    nll = {}
    for row in job.options["rows"]:
        ids_1T, labels_T = torch.tensor([job.ids[row]]), torch.tensor(job.labels[row])
        logits_TV = model(ids_1T).logits[0, :-1].float()
        nll[row] = torch.nn.functional.cross_entropy(
            logits_TV, labels_T[1:], ignore_index=IGNORED, reduction="sum"
        ).item()
    return nll


if __name__ == "__main__":
    job = read_job()
    torch.set_num_threads(job.threads)
    dtypes = job.options.get("dtypes", ["bfloat16", "float32"])
    print(json.dumps({name: losses(job, vars(torch)[name]) for name in dtypes}), flush=True)
