"""TRL at its best: bf16 weights, no checkpointing, and no padding or little. `--options` is one point of the grid.

`layout`: `grouped`: rows of equal length side by side; `rebalance`: transformers' own sampler, which sorts within each
step; `flat`: TRL's padding-free collator, all rows of a micro-batch in one sequence.
"""

from __future__ import annotations

from typing import Any

from common import grouped, read_job
from trl_run import run

LAYOUTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "rebalance": {"train_sampling_strategy": "batch_rebalance"},
    "flat": {"padding_free": True, "max_length": None},
}


if __name__ == "__main__":
    job = read_job()
    layout = job.options["layout"]
    order = grouped([len(ids) for ids in job.ids]) if layout == "grouped" else list(range(len(job.ids)))
    run(
        job,
        order,
        micro_batch=job.options["micro_batch"],
        model_init_kwargs={"dtype": "bfloat16"},
        gradient_checkpointing=False,
        **LAYOUTS[layout],
    )
