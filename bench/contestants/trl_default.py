"""TRL as its documentation leaves it: fp32 weights, bf16 autocast, gradient checkpointing, batches of 8, padded."""

from __future__ import annotations

from common import BATCH_SIZE, read_job
from trl_run import run

if __name__ == "__main__":
    job = read_job()
    run(job, range(len(job.ids)), micro_batch=BATCH_SIZE)
