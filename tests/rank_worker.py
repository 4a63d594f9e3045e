"""What each rank does in tests/backends/test_fsdp.py: torchrun starts it twice, and it trains every case of a file.

A case is `{"name", "folder", "plan", "shard", "stop_on", "poison"}`; for each one, each rank writes what it saw.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from sartor.backends import fsdp, ranks
from sartor.backends.ranks import here
from sartor.data.pack import Segment, Steps, pack
from sartor.errors import SartorError
from sartor.plan import Plan
from sartor.store import Run
from sartor.train import train


def segments(poison: str = "") -> list[Segment]:
    """Twelve rows of 8 to 30 tokens; the weights of row `poison` are infinite."""
    draw = random.Random(11)
    made = []
    for number in range(12):
        row, length = f"row {number}", draw.randint(8, 30)
        ids = [draw.randrange(49152) for _ in range(length + 1)]
        weights = [0.0, 0.0, *[float(draw.random() < 0.6) for _ in range(length - 3)], 1.0]
        weights = [float("inf") * weight if row == poison and weight else weight for weight in weights]
        made.append(Segment(row=row, tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=tuple(weights)))
    return made


def work(plan: Plan, folder: Path, *, stop_on: str = "", poison: str = "") -> list[dict[str, Any]]:
    """Train in a run's folder, by one rank or several; the events. `stop_on` "1:2": rank 1 is asked in step 2."""
    run = Run(folder)
    rows = segments(poison)
    steps = Steps([[row] for row in rows], batch_size=plan.batch_size, micro_tokens=plan.micro_tokens, seed=1)
    seen = []
    try:
        for event in train(plan, run, steps, pack(rows[:3], micro_tokens=64) if not poison else []):
            seen.append(event.model_dump(mode="json"))
            if stop_on == f"{here().rank}:{seen[-1].get('step')}":
                run.stopping = True
    except SartorError as error:
        seen.append({"type": type(error).__name__, "message": error.message})
    return seen


def main() -> None:
    cases, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    usual = ranks.LARGEST_BASE
    for case in cases:
        ranks.LARGEST_BASE = 0.0 if case["shard"] else usual
        seen = work(
            Plan.model_validate(case["plan"]), Path(case["folder"]), stop_on=case["stop_on"], poison=case["poison"]
        )
        (out / f"{case['name']}.{here().rank}.json").write_text(json.dumps(seen))
    written = out / "written"
    if not here().rank:
        time.sleep(1)  # as long as a checkpoint may take, which only this rank writes
        written.touch()
    fsdp.leave()
    (out / f"left.{here().rank}").write_text(str(written.exists()))


if __name__ == "__main__":
    main()
