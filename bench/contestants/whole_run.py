"""`sartor run` in this process, with a stopwatch on what computes: forwards, backwards, updates, steps of the engine.

Prints {"computing": seconds by what}; all else that the run takes is its own work, and its parent measures the whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from sartor.hardware import prepare_environment

Method = Callable[..., Any]


def timed(method: Method, name: str, seconds: Counter[str]) -> Method:
    """The same method; what each call takes is added to `seconds`."""

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - began

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--recipe", required=True)
    given = parser.parse_args()
    prepare_environment()  # as the command line does, before torch starts
    from sartor.backends.torch import TorchBackend
    from sartor.generate.sartor import SartorEngine

    seconds: Counter[str] = Counter()
    for kind, names in ((TorchBackend, ("forward_backward", "step")), (SartorEngine, ("advance", "logprobs"))):
        for name in names:
            setattr(kind, name, timed(vars(kind)[name], f"{kind.__name__}.{name}", seconds))
    from sartor.cli import main as sartor

    sys.argv = ["sartor", "run", given.recipe]
    with contextlib.redirect_stdout(sys.stderr):
        try:
            sartor()
        except SystemExit as stop:
            if stop.code:
                raise
    print(json.dumps({"computing": seconds}), flush=True)


if __name__ == "__main__":
    main()
