"""What reading takes: the median run with its range, the most memory, and what is to be doubted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_read


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    rows = data_read.up_to(data_read.talks(100), 20_000)
    found = data_read.read_once(data_read.jsonl(tmp_path / "rows.jsonl", rows))
    assert found["kept"] == found["rows"] > 10
    assert found["peak_bytes"] > 0


def test_the_page_has_medians_and_doubts(make_run: Callable[..., dict[str, Any]]) -> None:
    runs = [
        {
            **make_run("sartor", 0, cpu),
            "rows": 1000,
            "bytes": 10**6,
            "cpu": cpu,
            "seconds": cpu,
            "peak_bytes": mib << 20,
        }
        for cpu, mib in ((0.1, 20), (0.125, 12), (0.2, 10))
    ]
    result = {
        "date": "2030-01-02",
        "machine": {"processor": "Abacus 9"},
        "settings": {"repeats": 3, "threads": 1},
        "files": [{"name": "a file", "runs": runs}],
    }
    page = data_read.markdown(result)
    assert "| a file | 1,000 | 1000 | 8 (5–10) | 8 | 20 MiB |" in page
    assert "fewer than five repeats" in page
