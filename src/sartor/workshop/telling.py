"""Work that tells how far it is by calling, as a stream of what it tells: so a stage stays a stream of events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from sartor.types import Progress

#: Seconds between two looks at how far it is.
OFTEN = 0.5
#: Seconds that a step has to notice that it was left.
PATIENCE = 5.0


class _Left(BaseException):
    """Nobody watches any more."""


def watched(
    work: Callable[[Progress], None], *, stopping: Callable[[], bool] = lambda: False, every: float = OFTEN
) -> Iterator[tuple[int, int]]:
    """How much is done and of how much, whenever that changed, while `work` runs in a thread of its own.

    Who leaves early, or asks it to stop, ends the work when it tells next; what tells nothing for `PATIENCE` seconds
    is left to end with the process. Each step bears that, and goes on next time.

    Raises: what `work` raises.
    """
    latest, failures = [(0, 0)], list[BaseException]()
    ended, left = threading.Event(), threading.Event()
    before = latest[0]

    def tell(done: int, total: int) -> None:
        if left.is_set():
            raise _Left
        latest[0] = done, total

    def run() -> None:
        try:
            work(tell)
        except BaseException as error:  # noqa: BLE001 - it is raised again by who watches
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name="sartor-step", daemon=True)
    thread.start()
    try:
        while not ended.wait(every) and not stopping():
            if latest[0] != before:
                before = latest[0]
                yield before
    finally:
        left.set()
        thread.join(PATIENCE)
    if failures and not isinstance(failures[0], _Left):
        raise failures[0]
    if latest[0] != before:
        yield latest[0]
