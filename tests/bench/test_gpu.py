"""The scripts for a GPU, without one: prompts that are new in each round, turns, failures, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gpu
import gpu_generate
from sartor.hub import shape
from workload import flop_per_token

KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
WORKS = "import json, sys\nprint(json.dumps({'contestant': sys.argv[-3], 'model': sys.argv[-2], 'speed': 2000.0}))\n"
TABLE = {"speed": ("speed", ",.0f")}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_round_begins_like_no_other_round() -> None:
    first, second = (gpu_generate.prompts("tiny", number) for number in (0, 1))
    assert first == gpu_generate.prompts("tiny", 0)
    assert len({tuple(row[: gpu_generate.SHARED]) for row in first}) == 1
    assert not {tuple(row[:16]) for row in first} & {tuple(row[:16]) for row in second}


def test_work_is_counted_from_the_folder_of_the_model(tmp_path: Path) -> None:
    gpu.make_model("tiny", tmp_path)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    adapters = gpu.RANK * (2 * 64 + 2 * 48 + 3 * 96)
    head, first = 0.5 * 4 * 32 * 512, 2 * (32 * 32 + 2 * 32 * 16)
    expected = 2 * (4 * layer + 6 * adapters + 7 * 32 * 2048) + head - first
    assert flop_per_token(shape(tmp_path), [2048], 0.5, rank=gpu.RANK, method="lora") == expected


def test_contestants_take_turns_in_fresh_processes(tmp_path: Path) -> None:
    script = tmp_path / "works.py"
    script.write_text(WORKS)
    options = gpu.parser("", ["a", "b"]).parse_args(["--models", "tiny", "--turns", "2"])
    results = gpu.run_all(str(script), options, [])
    assert [(run["turn"], run["contestant"]) for run in results] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert "| tiny | a | 2,000 (2,000–2,000) |" in gpu.table(results, TABLE)


def test_one_that_is_killed_says_so(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    options = gpu.parser("", ["a"]).parse_args(["--models", "tiny", "--turns", "1"])
    results = gpu.run_all(str(script), options, [])
    assert "a, tiny: killed.py failed: it was ended by signal 9" in gpu.table(results, TABLE)


def test_without_a_gpu_no_large_model_is_run() -> None:
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu.run_all("script.py", gpu.parser("", ["a"]).parse_args([]), [])
