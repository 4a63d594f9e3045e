"""A first signal asks, a second one leaves, and afterwards everything is as it was."""

from __future__ import annotations

import signal

import pytest

from sartor.launch.signals import handled, requests


def test_the_first_signal_asks_and_the_second_leaves() -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked: list[int] = []
    with pytest.raises(KeyboardInterrupt), requests(asked.append, signal.SIGTERM, signal.SIGUSR1) as received:
        signal.raise_signal(signal.SIGUSR1)
        assert asked == received == [signal.SIGUSR1]
        signal.raise_signal(signal.SIGTERM)
    assert asked == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_is_handled_otherwise_for_a_while() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with handled(signal.SIG_IGN, signal.SIGUSR1):
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before
