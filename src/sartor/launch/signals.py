"""SIGTERM and Ctrl-C as a request: the work at hand is saved before the process leaves."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


@contextmanager
def requests(ask: Callable[[int], None], *signals: signal.Signals) -> Iterator[list[int]]:
    """Call `ask` on the first of these signals; a second one leaves at once. Yields the signals received."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        ask(number)

    with handled(handle, *signals):
        yield received


@contextmanager
def handled(handler: Handler, *signals: signal.Signals) -> Iterator[None]:
    """Handle signals in another way, and afterwards as before."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
