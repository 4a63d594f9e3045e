"""Plain transformers' Trainer with PEFT on the shared rows. `--options` chooses the tier.

`{"tier": "default"}`: TrainingArguments as they come, batches of 8, padded; the weights in the dtype that
`from_pretrained` chooses. Otherwise one point of the grid: `dtype`, no checkpointing, `attention`, and a `layout`:
`grouped` or `rebalance`, as in `trl_step.py`.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from common import IGNORED, Job, read_job
from datasets import Dataset
from peft import get_peft_model
from trainer import SameSteps, Watch, held_equal, lora, rows
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainingArguments


def load(job: Job) -> Any:
    """The model of the tier, with its adapter."""
    options = job.options
    tuned = {"dtype": vars(torch)[options["dtype"]], "attn_implementation": options.get("attention")}
    chosen = {} if job.is_default else tuned
    model = AutoModelForCausalLM.from_pretrained(job.model, local_files_only=True, **chosen)
    return model if job.method == "full" else get_peft_model(model, lora())


def main() -> None:
    job = read_job()
    watch = Watch(job)
    sampling = "batch_rebalance" if job.options.get("layout") == "rebalance" else "sequential"
    tokenizer = AutoTokenizer.from_pretrained(job.model, local_files_only=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SameSteps(
            model=load(job),
            args=TrainingArguments(output_dir=folder, train_sampling_strategy=sampling, **held_equal(job)),
            train_dataset=Dataset.from_dict(rows(job)),
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
            callbacks=[watch],
        )
        trainer.train()
    watch.report()


if __name__ == "__main__":
    main()
