"""The judge: the untrained model's loss on chosen rows, by plain transformers, one row at a time.

LoRA starts as the identity, so this is what every contestant must see in its first step, whatever it packs or pads.
Prints {"bfloat16": {row: sum over its supervised tokens, nats}, "float32": the same}. `--options '{"rows": […]}'`
chooses. In bf16, the precision held equal, it judges; in fp32 it says how much of the rest is rounding.
"""

from __future__ import annotations

import json

import torch
from common import IGNORED, Job, read_job
from transformers import AutoModelForCausalLM


@torch.no_grad()
def losses(job: Job, dtype: torch.dtype) -> dict[int, float]:
    """The loss of each chosen row; the softmax in fp32, as everyone takes it."""
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, local_files_only=True).eval()
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
    print(json.dumps({name: losses(job, vars(torch)[name]) for name in ("bfloat16", "float32")}), flush=True)
