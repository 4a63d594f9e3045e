"""Parquet: rows by their number, nested values, limits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from sartor import formats
from sartor.data.read import Read, read
from sartor.data.reading import parquet as ours
from sartor.errors import DataError
from sartor.types import Chat

TURNS = [{"role": "user", "content": "hi", "name": None}, {"role": "assistant", "content": "hello", "name": None}]


def written(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **settings)
    return path


def taken(path: Path, **settings: Any) -> Read:
    return read(path, **({"format": None, "fields": {}, "label": path.name} | settings))


def test_rows_are_named_by_their_number(tmp_path: Path):
    rows = [{"messages": TURNS, "tools": None}] * 40 + [{"messages": None, "tools": None}]
    result = taken(written(tmp_path / "a.parquet", rows, row_group_size=7))
    assert (result.format, result.rows, len(result.examples)) == ("chat", 41, 40)
    assert [example.source.line for example in result.examples] == list(range(1, 41))
    assert [(entry.line, entry.field) for entry in result.entries] == [(41, "messages")]


#: What Parquet can hold, and JSON cannot.
STRANGE = [date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), timedelta(1), b"abc", Decimal("1.5")]


@pytest.mark.parametrize("value", STRANGE)
def test_what_json_cannot_hold_costs_nothing_where_no_format_reads_it(tmp_path: Path, value: Any):
    turns = [turn | {"at": value} for turn in TURNS]
    rows = [{"messages": turns, "day": value, "more": {"days": [value]}, "score": 1.0}] * 2
    result = taken(written(tmp_path / "a.parquet", rows))
    assert (len(result.examples), result.entries) == (2, ())


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("name", ["alpaca", "completion", "preference", "sharegpt", "steps", "text", "unpaired"])
def test_what_json_cannot_hold_is_refused_by_the_format_that_reads_it(tmp_path: Path, name: str, value: Any):
    sample = formats.named(name).SAMPLE
    for field in sample:
        (entry,) = taken(written(tmp_path / "a.parquet", [{**sample, field: value}]), format=name).entries
        assert (entry.reason, entry.field) == ("field", field)
        assert f"saw a value of the type {type(value).__name__}, expected" in entry.detail
    rows = [{"ask": value, "completion": "a"}]
    (entry,) = taken(written(tmp_path / "b.parquet", rows), fields={"prompt": "ask"}, format="completion").entries
    assert (entry.reason, entry.field) == ("field", "ask")


def test_a_time_beyond_all_calendars_is_told(tmp_path: Path):
    table = pyarrow.table({"text": ["a"], "at": pyarrow.array([2**62], pyarrow.timestamp("us"))})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="out of range"):
        taken(tmp_path / "a.parquet")


def test_tools_hold_nothing_but_json(tmp_path: Path):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"default": date(2026, 1, 2)}}}
    (entry,) = taken(written(tmp_path / "a.parquet", [{"messages": TURNS, "tools": [tool]}])).entries
    assert (entry.reason, entry.field) == ("field", "tools[0].function.parameters.default")


def test_infinities_are_a_bad_row(tmp_path: Path):
    rows = [{"text": "a", "x": float("nan")}, {"text": "b", "x": None}]
    result = taken(written(tmp_path / "b.parquet", rows), format="text")
    assert [(entry.line, entry.reason, entry.field) for entry in result.entries] == [(1, "not_a_number", "x")]
    assert len(result.examples) == 1


def test_tools_may_be_json_in_a_text(tmp_path: Path):
    tools = '[{"type": "function", "function": {"name": "f"}}]'
    (example,) = taken(written(tmp_path / "a.parquet", [{"messages": TURNS, "tools": tools}])).examples
    assert isinstance(example, Chat)
    assert example.tools[0]["function"]["name"] == "f"


def test_progress_counts_rows(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    path = written(tmp_path / "a.parquet", [{"text": "a"}] * 100)
    taken(path, progress=lambda done, size: calls.append((done, size)))
    assert calls == sorted(calls)
    assert calls[-1] == (100, 100)


def test_damage_and_emptiness_are_told(tmp_path: Path):
    path = written(tmp_path / "a.parquet", [{"text": "a" * 1000}] * 100)
    raw = path.read_bytes()
    for damaged in (raw[:-20], raw[: len(raw) // 2], b"PAR1" + b"\xff" * 200 + raw[-60:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            taken(path)
    empty = pyarrow.table({"text": pyarrow.array([], pyarrow.string())})
    parquet.write_table(empty, path)
    with pytest.raises(DataError, match="empty"):
        taken(path)


def test_bombs_are_refused_by_a_named_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "a.parquet", [{"text": "a" * 50_000}] * 200)
    assert path.stat().st_size < 20_000
    result = taken(path, longest=49_999, format="text")
    assert {entry.reason for entry in result.entries} == {"too_long"}
    monkeypatch.setattr(ours, "HARMLESS", 2**20)
    monkeypatch.setattr(ours, "MOST_TIMES", 100)
    with pytest.raises(DataError, match="100 times its size"):
        taken(path, format="text")
    monkeypatch.setattr(ours, "LARGEST_COLUMN", 1000)
    with pytest.raises(DataError, match="at most 1,000"):
        taken(path)
