"""The judge: losses of chosen rows by plain transformers, one row at a time, untrained or with an exported adapter.

LoRA starts as the identity, so the untrained model's loss is what every contestant must see in its first step, whatever
it packs or pads. Prints {dtype: {row: sum over its supervised tokens, nats}}. `--options`: `rows` chooses,
`exports` are folders that PEFT loads (full tuning: whole models), which proves the export: then it prints
{"losses": [mean over the supervised tokens of all rows, nats]}, one for each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from common import IGNORED, Job, read_job
from transformers import AutoModelForCausalLM


def load(job: Job, dtype: torch.dtype, folder: Path | None = None) -> Any:
    """The base model, with an exported adapter on it if one is named; or an exported model."""
    if folder is not None and not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, local_files_only=True).eval()
    if folder is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder).eval()


@torch.no_grad()
def losses(job: Job, model: Any) -> dict[int, float]:
    """The loss of each chosen row; the softmax in fp32, as everyone takes it."""
    nll = {}
    for row in job.options["rows"]:
        ids_1T, labels_T = torch.tensor([job.ids[row]]), torch.tensor(job.labels[row])
        logits_TV = model(ids_1T).logits[0, :-1].float()
        nll[row] = torch.nn.functional.cross_entropy(
            logits_TV, labels_T[1:], ignore_index=IGNORED, reduction="sum"
        ).item()
    return nll


def score(job: Job, folder: Path) -> float:
    """The mean loss of an export over all rows, in everyone's type."""
    num_supervised = sum(label != IGNORED for labels in job.labels for label in labels[1:])
    dtype = vars(torch)[job.options["dtype"]]
    return sum(losses(job, load(job, dtype, folder)).values()) / num_supervised


def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    if "exports" in job.options:
        print(json.dumps({"losses": [score(job, Path(folder)) for folder in job.options["exports"]]}), flush=True)
        return
    found = {name: losses(job, load(job, vars(torch)[name])) for name in ("bfloat16", "float32")}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
