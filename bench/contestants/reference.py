"""The judge: the untrained model's loss on chosen rows, by plain transformers in fp32, one row at a time.

LoRA starts as the identity, so this is what every contestant must see in its first step, whatever it packs or pads.
Prints {"nll": {row: sum over its supervised tokens, nats}}. `--options '{"rows": […]}'` chooses.
"""

from __future__ import annotations

import json

import torch
from common import IGNORED, read_job
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32, local_files_only=True).eval()
    nll = {}
    for row in job.options["rows"]:
        ids_1T, labels_T = torch.tensor([job.ids[row]]), torch.tensor(job.labels[row])
        logits_TV = model(ids_1T).logits[0, :-1]
        nll[row] = torch.nn.functional.cross_entropy(
            logits_TV, labels_T[1:], ignore_index=IGNORED, reduction="sum"
        ).item()
    print(json.dumps({"nll": nll}), flush=True)


if __name__ == "__main__":
    main()
