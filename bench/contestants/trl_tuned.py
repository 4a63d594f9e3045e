"""TRL at its best: bf16 weights, no checkpointing, and no padding or little. `--options` is one point of the grid.

`layout`: `grouped`: rows of equal length side by side; `rebalance`: transformers' own sampler, which sorts within each
step; `flat`: TRL's padding-free collator, all rows of a micro-batch in one sequence.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from common import BATCH_SIZE, SEED, read_job
from trl_run import run

LAYOUTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "rebalance": {"train_sampling_strategy": "batch_rebalance"},
    "flat": {"padding_free": True, "max_length": None},
}


def grouped(lengths: Sequence[int]) -> list[int]:
    """Rows sorted by length over the whole run, then the optimizer steps shuffled, so that warm-up is like the rest.

    transformers' `group_by_length` sorts within up to 50 steps and begins with the longest row: in a run as short as
    ours it would pad more than it does in a long one, and warm up on the longest.
    """
    ranked = sorted(range(len(lengths)), key=lambda row: lengths[row])
    steps = [ranked[start : start + BATCH_SIZE] for start in range(0, len(ranked), BATCH_SIZE)]
    random.Random(SEED).shuffle(steps)
    return [row for step in steps for row in step]


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
