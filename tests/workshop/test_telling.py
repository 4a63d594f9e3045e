"""A step's calls as a stream: what it tells, what it raises, and that one may leave it."""

from __future__ import annotations

import threading

import pytest

from sartor.workshop import telling
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


@pytest.mark.parametrize("stops", [False, True])
def test_who_leaves_or_stops_ends_the_work_where_it_tells_next(stops: bool) -> None:
    told, ended = threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        try:
            for number in range(10**6):
                progress(number, 0)
                told.set()
        finally:
            ended.set()

    found = watched(work, stopping=lambda: stops and told.is_set(), every=0.01)
    if stops:
        assert len(list(found)) <= 2
    else:
        next(found)
        found.close()
    assert ended.is_set()


def test_work_that_tells_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "PATIENCE", 0.01)
    never = threading.Event()
    assert list(watched(lambda progress: bool(never.wait(60)) or None, stopping=lambda: True, every=0.01)) == []
    never.set()
