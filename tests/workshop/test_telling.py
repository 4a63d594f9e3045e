"""A step's calls as a stream: what it tells, what it raises, and that one may leave it."""

from __future__ import annotations

import threading

import pytest

from sartor.workshop.telling import Progress, watched


def test_what_a_step_tells_is_told_once() -> None:
    seen = threading.Event()

    def work(progress: Progress) -> None:
        progress(1, 2)
        seen.wait(10)
        progress(2, 2)

    found = watched(work, every=0.01)
    assert next(found) == (1, 2)
    seen.set()
    assert list(found) in ([], [(2, 2)])


def test_its_errors_come_through() -> None:
    def work(progress: Progress) -> None:
        progress(1, 0)
        raise ValueError("no more rows")

    with pytest.raises(ValueError, match="no more rows"):
        list(watched(work))


def test_who_leaves_does_not_wait() -> None:
    never = threading.Event()

    def work(progress: Progress) -> None:
        progress(1, 0)
        never.wait(60)

    for _ in watched(work, every=0.01):
        break
    never.set()
