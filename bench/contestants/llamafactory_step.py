"""LLaMA-Factory on the shared rows, through its own `tokenized_path` and `run_exp`. `--options` chooses the tier.

`{"tier": "default"}`: as its documented examples: bf16, micro-batches of 1, gradient checkpointing. Otherwise one point
of the grid: no checkpointing, rows grouped by length, `micro_batch` rows at once; its `pure_bf16` refuses a CPU.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import ALPHA, RANK, Job, read_job
from datasets import Dataset, DatasetDict
from llamafactory.train.tuner import run_exp
from trainer import Watch, held_equal, rows


def settings(job: Job, folder: Path) -> dict[str, Any]:
    """The keys of LLaMA-Factory's own YAML. The template only has to exist: rows come as ids."""
    lora = {"lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "lora_target": "all"}
    return {
        **held_equal(job),
        "bf16": job.is_default or job.options["dtype"] == "bfloat16",
        "disable_gradient_checkpointing": not job.is_default,
        **({"finetuning_type": "full"} if job.method == "full" else {"finetuning_type": "lora", **lora}),
        "model_name_or_path": job.model,
        "stage": "sft",
        "do_train": True,
        "dataset": "rows",  # has to be named, and is not read: `tokenized_path` takes its place
        "tokenized_path": str(folder / "rows"),
        "template": "default",
        "disable_shuffling": True,
        "cutoff_len": max(map(len, job.ids)),
        "output_dir": str(folder / "out"),
        "overwrite_output_dir": True,
        "dataloader_num_workers": 0,
    }


def main() -> None:
    job = read_job()
    if job.is_default:
        job = replace(job, options={**job.options, "micro_batch": 1})
    watch = Watch(job)
    columns = rows(job)
    columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(folder / "rows"))
        run_exp(settings(job, folder), callbacks=[watch])
    watch.report()


if __name__ == "__main__":
    main()
