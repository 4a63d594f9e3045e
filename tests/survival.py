"""A harness that kills real training processes and lets them go on: used by test_survival.py.

It imports torch once and forks a child for each trial, so that a trial costs what training costs and not what importing
costs. No torch operation runs in the parent: a forked child cannot use its thread pool.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sartor import durable
from sartor.recipe import load
from sartor.stages import Bench, run_until
from sartor.store import Run, open_run

Work = Callable[[], None]


def train_once(recipe: Path) -> None:
    """What `sartor train` does, without its console."""
    run = open_run(recipe, load(recipe))
    with run.locked():
        for _ in run_until(Bench(run), "train", without=("baseline",)):
            pass


def child(work: Work, *, environment: dict[str, str] | None = None) -> int:
    """Fork a process that does the work; its id. It ends with 0, or 3 on an error."""
    process = os.fork()
    if process:
        return process
    os.environ.update(environment or {})
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever it met
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(3)
    os._exit(0)


def finish(work: Work, environment: dict[str, str] | None = None) -> int:
    """Run the work in a child to its end; its exit status, negative for a signal."""
    _, status = os.waitpid(child(work, environment=environment), 0)
    return os.waitstatus_to_exitcode(status)


def kill_after(work: Work, seconds: float) -> bool:
    """Run the work in a child and SIGKILL it after some time. Whether it was killed before it ended by itself."""
    process = child(work)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "a resumed run failed"
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def adapter_digest(run: Run) -> str:
    return durable.sha256(run.path("adapter/adapter_model.safetensors"))


def random_kills(recipe: Path, *, kills: int, seed: int) -> dict[str, object]:
    """An uninterrupted run, then the same run killed at random moments, again and again, until it has ended.

    When it ends before all kills were made it starts anew, so that every kill hits a run that is at work.
    """
    draw = random.Random(seed)
    run = open_run(recipe, load(recipe))
    assert finish(lambda: train_once(recipe)) == 0
    wanted, losses = adapter_digest(run), _losses(run)
    # The first run also read the data and measured the machine, so what training takes is taken from the second.
    _forget_training(run)
    began = time.monotonic()
    assert finish(lambda: train_once(recipe)) == 0
    whole = time.monotonic() - began
    made, rounds, equal = 0, 0, 0
    while made < kills:
        _forget_training(run)
        rounds += 1
        while made < kills and kill_after(lambda: train_once(recipe), draw.uniform(0.15, 0.9) * whole):
            made += 1
        assert finish(lambda: train_once(recipe)) == 0
        equal += adapter_digest(run) == wanted and _losses(run) == losses
    return {"kills": made, "rounds": rounds, "rounds_equal": equal, "seed": seed, "seconds_whole": round(whole, 2)}


def _losses(run: Run) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in run.events() if event["type"] == "stepped"}


def _forget_training(run: Run) -> None:
    for name in ("adapter", "checkpoints"):
        shutil.rmtree(run.path(name), ignore_errors=True)
    run.path("events.jsonl").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    import peft  # noqa: F401 - imported once here, not in every child
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import sartor.backends.torch  # noqa: F401

    gc.freeze()  # or every child would look through all that was imported when it collects
    print(json.dumps(random_kills(arguments.recipe, kills=arguments.kills, seed=arguments.seed)))


if __name__ == "__main__":
    main()
