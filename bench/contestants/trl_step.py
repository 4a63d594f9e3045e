"""TRL's SFTTrainer on the shared rows. `--options` chooses the tier.

`{"tier": "default"}`: as its documentation leaves it: fp32 weights, bf16 autocast, checkpointing, batches of 8, padded.
Otherwise one point of the grid: `dtype` of the weights, no checkpointing, `attention` if not transformers' own choice,
and a `layout`: `grouped`: rows of equal length side by side; `rebalance`: transformers' own sampler, which shares a
step's rows out over micro-batches of equal cost; `flat`: TRL's padding-free collator, all rows of a micro-batch in one
sequence.
"""

from __future__ import annotations

import tempfile
from typing import Any

from common import Job, read_job
from datasets import Dataset
from trainer import SameSteps, Watch, held_equal, lora, rows
from trl import SFTConfig, SFTTrainer

LAYOUTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "rebalance": {"train_sampling_strategy": "batch_rebalance"},
    "flat": {"padding_free": True},
}


class Contestant(SameSteps, SFTTrainer):  # type: ignore[misc]
    """TRL's, on the rows of everyone's steps."""


def settings(job: Job) -> dict[str, Any]:
    """Fields of SFTConfig. `max_length` is TRL's own 1,024 otherwise, and would cut rows."""
    fixed = {**held_equal(job), "train_sampling_strategy": "sequential", "max_length": None}
    if job.is_default:
        return fixed
    dtype = job.options["dtype"]  # TRL's own autocast to bf16 takes minutes a step where nothing multiplies that
    model = {"dtype": dtype}
    if "attention" in job.options:
        model["attn_implementation"] = job.options["attention"]
    tuned = {"model_init_kwargs": model, "bf16": dtype == "bfloat16", "gradient_checkpointing": False}
    return fixed | tuned | LAYOUTS[job.options["layout"]]


def main() -> None:
    job = read_job()
    watch = Watch(job)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Contestant(
            model=job.model,
            args=SFTConfig(output_dir=folder, **settings(job)),
            train_dataset=Dataset.from_dict(rows(job)),
            peft_config=None if job.method == "full" else lora(),
            callbacks=[watch],
        )
        trainer.train()
    watch.report()


if __name__ == "__main__":
    main()
