"""Sartor's plan of a job, before anything runs: writes it to the `plan` of `--options`, prints digest and estimate."""

from __future__ import annotations

import json
from pathlib import Path

from common import read_job
from sartor_plan import plan_of


def main() -> None:
    job = read_job()
    plan = plan_of(job)
    Path(job.options["plan"]).write_text(plan.model_dump_json(by_alias=True), encoding="utf-8")
    facts = {
        "digest": plan.digest,
        "peak_bytes": plan.estimate.peak_bytes,
        "seconds": plan.estimate.seconds,
        "micro_tokens": plan.micro_tokens,
        "dtype": plan.model.dtype,
    }
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
