"""Work that tells how far it is by calling, as a stream of what it tells: so a stage stays a stream of events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]
#: Seconds between two looks at how far it is.
OFTEN = 0.5


def watched(work: Callable[[Progress], None], *, every: float = OFTEN) -> Iterator[tuple[int, int]]:
    """How much is done and of how much, whenever that changed, while `work` runs in a thread of its own.

    Who leaves early leaves the thread behind, which ends with the process: each step bears that, and goes on next time.

    Raises: what `work` raises.
    """
    latest, failures, ended = [(0, 0)], list[BaseException](), threading.Event()
    before = latest[0]

    def tell(done: int, total: int) -> None:
        latest[0] = done, total

    def run() -> None:
        try:
            work(tell)
        except BaseException as error:  # noqa: BLE001 - it is raised again by who watches
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="sartor-step", daemon=True).start()
    while not ended.wait(every):
        if latest[0] != before:
            before = latest[0]
            yield before
    if failures:
        raise failures[0]
