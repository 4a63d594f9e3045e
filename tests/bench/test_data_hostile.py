"""Broken rows and bombs: what is counted, and the page with the worst of the runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_hostile
import malformed


def test_no_broken_row_is_missed() -> None:
    for name in malformed.ROWS:
        found = data_hostile.malformed_rows(name, 20)
        assert (found["missed"], found["unnamed"], found["refused"]) == ([], [], [])


def test_a_bomb_is_named_by_its_limit(tmp_path: Path) -> None:
    path = data_hostile.made("brackets 100,000 deep", tmp_path)["path"]
    found = data_hostile.bomb(Path(path))
    assert found["kept"] == 1
    assert found["said"][0].startswith("too_deep")


def test_the_page_has_the_worst_of_the_runs(make_run: Callable[..., dict[str, Any]]) -> None:
    def part(name: str, *found: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "runs": [{**make_run("sartor", 0, 1.0), **each} for each in found]}

    row = {"bad": 9, "missed": [], "unnamed": [], "refused": [], "grown_bytes": 1 << 20}
    bomb = {"bytes": 10**6, "kept": 1, "said": ["too_deep: a | b"], "seconds": 1.0, "grown_bytes": 1 << 20}
    family = {"steering_tokens": 3, "texts": 9, "with_a_whole_token": 8, "forged": [], "seconds": 2.0}
    result = {
        "date": "2030-01-02",
        "machine": {"processor": "Abacus 9"},
        "settings": {"repeats": 2, "threads": 1},
        "rows": [part("chat", row, {**row, "missed": [1], "grown_bytes": 5 << 20})],
        "bombs": [part("deep", bomb, {**bomb, "seconds": 2.0, "grown_bytes": 7 << 20})],
        "families": [part("gemma3", family, {**family, "forged": [[1, "x"]]})],
    }
    page = data_hostile.markdown(result)
    assert "1 not reported at their line" in page
    assert "at most 5 MiB" in page
    assert "| deep | 1 MB | too_deep: a / b | 1 | 1.5 (1.0–2.0) | 7 MiB |" in page
    assert "| gemma3 | 3 | 9 | 8 | **1** | 2.0 (2.0–2.0) |" in page
    assert "fewer than five repeats" in page
