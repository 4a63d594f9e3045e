"""Time to a held-out loss: every contestant exports its adapter as it goes, and one script scores them all.

The script is `contestants/reference.py`, plain transformers and PEFT in a process of its own: so the export is proved
as well. Saving and scoring do not count as training time. All take the same rows in each step, and sort them within it
only: an order of rows is no speed.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import OURS, say
from peers import CONTESTANTS
from sartor.errors import DataError, MachineError, Refused
from workload import Workload

if TYPE_CHECKING:
    from train import Bench

Json = dict[str, Any]

HELD_OUT = 32  # rows
HELD_OUT_TOKENS = 8_000  # and no more than these
POINTS = 6  # exports on the way
MAX_FINAL_ERROR = 0.005
#: The reference run: fp32, rows in their order, the whole step at once; never timed.
REFERENCE = ("hf_tuned", {"dtype": "float32", "layout": "in order"})


def held_out(whole: Workload, used: int) -> Workload:
    """Rows after those that train, one at the least.

    Raises:
        DataError: there are none.
    """
    lengths = itertools.accumulate(len(ids) for ids in whole.ids[used : used + HELD_OUT])
    if used == len(whole.ids):
        raise DataError(f"{whole.name}: all {len(whole.ids)} rows train", hint="measure fewer steps")
    return whole.rows(used, used + max(1, sum(total <= HELD_OUT_TOKENS for total in lengths)))


def curves(
    bench: Bench,
    used: dict[str, Workload],
    chosen: Sequence[str],
    options: argparse.Namespace,
    best: dict[tuple[str, str], Json],
    absent: Json,
) -> Iterator[Json]:
    """Every contestant on every workload, in turn: seconds and held-out losses on the way; first the reference."""
    for name, workload in used.items():
        last = options.steps + options.warmup
        contestant, own = REFERENCE
        try:
            found = curve(bench, contestant, workload, options.steps, own, last)
            yield {**found, "contestant": "reference", "repeat": 0}
        except (MachineError, Refused) as error:
            say(f"{name} · no reference: {error.message}\n  {error.hint}")
        for repeat, contestant in itertools.product(range(options.repeats), chosen):
            if not CONTESTANTS[contestant].exports:
                absent.setdefault(contestant, {})[name] = "it does not export a PEFT adapter"
            if name in absent.get(contestant, {}):
                continue
            own = best.get((name, contestant)) or CONTESTANTS[contestant].options(workload.batch_size)
            try:
                found = curve(bench, contestant, workload, options.steps, own, max(1, last // POINTS))
            except (MachineError, Refused) as error:
                if contestant == OURS:
                    raise
                absent.setdefault(contestant, {})[name] = error.message
                continue
            yield {**found, "repeat": repeat}
            say(f"{name} · {contestant} · repeat {repeat + 1}: held-out loss {found['points'][-1][1]:.4f}")


def curve(bench: Bench, contestant: str, workload: Workload, steps: int, own: Json, every: int) -> Json:
    """One run: (training seconds, held-out loss) before the first step and at each export.

    Raises:
        MachineError: it failed.
        Refused: it did other work.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {**own, "same_steps": True, "export": folder, "export_every": every}
        result = bench.run(contestant, workload.name, steps=steps, options=options)
        bench.judge(contestant, workload, result, steps=steps)
        seconds = list(itertools.accumulate([*result["warmup_seconds"], *result["seconds_per_step"]], initial=0.0))
        exports = sorted(Path(folder).iterdir())
        losses = score(bench, workload.name, [bench.model, *exports])
        points = [(0.0, losses[0])]
        points += [(seconds[int(path.name[-4:])], loss) for path, loss in zip(exports, losses[1:], strict=True)]
    kept = {key: result[key] for key in ("peak_bytes", *harness.STATE)}
    return {"workload": workload.name, "contestant": contestant, "options": own, "points": points, **kept}


def score(bench: Bench, workload: str, exports: Sequence[Path]) -> list[float]:
    """Nats a supervised token of each export on the held-out rows, by the external script, in everyone's type."""
    file = f"{workload}.held-out"
    rows = list(range(len(Workload.read(harness.CACHE / "workloads" / f"{file}.json").ids)))
    arguments = bench.arguments(file, len(rows), {"rows": rows, "exports": [str(path) for path in exports]})
    script = harness.HERE / "contestants" / "reference.py"
    return [float(loss) for loss in bench.machine.process(OURS, script, arguments)["losses"]]


def seconds_to(points: Sequence[Sequence[float]], target: float) -> float:
    """Training seconds when the loss first reached the target, in between linearly; infinite if it never did."""
    for (before, high), (after, low) in itertools.pairwise(points):
        if low <= target:
            return before if high <= target else before + (after - before) * (high - target) / (high - low)
    return float("inf")


def common_target(runs: Sequence[Json]) -> float:
    """The lowest loss that every run reached of those that improved at all."""
    lowest = [(run["points"][0][1], min(loss for _, loss in run["points"])) for run in runs]
    return max((low for start, low in lowest if low < start), default=min(start for start, _ in lowest))
