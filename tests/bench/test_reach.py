"""Time to a loss: where a curve meets its target, which target all reach, and its table."""

from __future__ import annotations

from typing import Any

import pytest

import reach
import report
import workload
from sartor.errors import DataError

CURVE = [(0.0, 2.0), (10.0, 1.5), (20.0, 1.0), (30.0, 1.2)]


@pytest.mark.parametrize(("target", "seconds"), [(2.5, 0.0), (2.0, 0.0), (1.75, 5.0), (1.0, 20.0), (0.9, float("inf"))])
def test_a_target_is_met_in_between_linearly(target: float, seconds: float) -> None:
    assert reach.seconds_to(CURVE, target) == pytest.approx(seconds)


def test_the_common_target_is_one_that_everybody_reached() -> None:
    assert reach.common_target([{"points": CURVE}, {"points": [(0.0, 2.0), (9.0, 1.4)]}]) == 1.4


def test_one_that_never_improved_sets_no_target() -> None:
    worse = {"points": [(0.0, 2.0), (9.0, 2.1)]}
    assert reach.common_target([{"points": CURVE}, worse]) == 1.0
    assert reach.seconds_to(worse["points"], 1.0) == float("inf")


def test_scored_rows_never_train(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple((number, number) for number in range(50))
    whole = workload.Workload("w1", "here", 2, rows, rows)
    assert reach.held_out(whole, 40).ids == rows[40:]
    assert len(reach.held_out(whole, 10).ids) == reach.HELD_OUT
    monkeypatch.setattr(reach, "HELD_OUT_TOKENS", 1)
    assert reach.held_out(whole, 10).ids == rows[10:11]
    with pytest.raises(DataError, match="all 50 rows train"):
        reach.held_out(whole, 50)


def test_the_table_says_times_as_ratios_and_ends_against_the_reference(make_result: Any) -> None:
    def run(name: str, repeat: int, points: list[tuple[float, float]]) -> dict[str, Any]:
        shares = {"steal": 0.0, "foreign": 0.0, "plateau_before": 4e11, "plateau_after": 4e11, "peak_bytes": 1}
        return {"workload": "w1", "contestant": name, "repeat": repeat, "options": {}, "points": points, **shares}

    runs = [run("reference", 0, [(0.0, 2.0), (99.0, 1.0)])]
    for repeat in range(5):
        runs.append(run("sartor", repeat, [(0.0, 2.0), (10.0, 1.0)]))
        runs.append(run("trl_tuned", repeat, [(0.0, 2.0), (30.0, 1.01)]))
    page = report.markdown(make_result(runs=[], reach=runs))
    assert "| TRL, tuned | 3.03 × [3.03, 3.03] | 1.0100 | +1.00%, not within 0.5 % |" in page
    assert "| Sartor | – | 1.0000 | +0.00% |" in page
    runs.append(run("trl_default", 0, [(0.0, 2.0), (30.0, 2.1)]))
    assert "not reached by both" in report.markdown(make_result(runs=[], reach=runs))
