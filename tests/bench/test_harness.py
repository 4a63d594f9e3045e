"""Fresh processes: what a failure says, and what is read of the machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import harness
from sartor.errors import MachineError


def test_the_reason_is_the_error_and_not_what_is_said_after_it() -> None:
    assert harness.reason("Traceback\nValueError: no bf16\nUserWarning: leaked\n") == "ValueError: no bf16"
    assert harness.reason("gone\n\n") == "gone"
    assert harness.reason("") == ""


def test_the_last_line_of_json_of_a_process_is_its_result(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('words')\nprint('{\"flops\": 2}')\nprint('bye')\n", encoding="utf-8")
    assert harness.Machine(1).process("sartor", script, []) == {"flops": 2}


class Counting(harness.Machine):
    """A machine whose matrix products and scripts are given: it counts what runs."""

    ran: list[str]

    def process(self, environment: str, script: Path, arguments: Sequence[str]) -> harness.Json:
        self._now = None
        self.ran.append(script.name)
        return {"flops": float(len(self.ran))}


def test_the_plateau_between_two_runs_is_measured_once_and_anew_after_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "CACHE", tmp_path)
    machine = Counting(1)
    machine.ran = []
    first, second = (machine.measured("sartor", Path("script.py"), []) for _ in range(2))
    assert set(harness.STATE) < set(first)
    kept = (tmp_path / "measured.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in kept] == [
        {"script": "script.py", "arguments": [], **run} for run in (first, second)
    ]
    assert machine.ran == ["gemm.py", "script.py", "gemm.py", "script.py", "gemm.py"]
    assert first["plateau_after"] == second["plateau_before"] == 3.0
    machine.process("sartor", Path("reference.py"), [])
    assert machine.measured("sartor", Path("script.py"), [])["plateau_before"] == 7.0


def test_a_real_process_ends_what_is_known_of_the_plateau(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('{}')\n", encoding="utf-8")
    machine = harness.Machine(1)
    machine._now = 5.0
    machine.process("sartor", script, [])
    assert machine._now is None


def test_a_failed_process_says_why_and_how_to_repeat_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise ValueError('no bf16')\n", encoding="utf-8")
    with pytest.raises(MachineError, match="no bf16") as found:
        harness.Machine(1).process("sartor", script, ["--steps", "2"])
    assert f"{sys.executable} {script} --threads 1 --steps 2" in found.value.hint


def test_a_process_that_was_killed_says_by_what(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nprint('FutureWarning: soon', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)\n",
        encoding="utf-8",
    )
    with pytest.raises(MachineError, match="ended by signal 9"):
        harness.Machine(1).process("sartor", script, [])


@pytest.mark.parametrize(("gpu", "seen"), [(False, ""), (True, "0")])
def test_gpus_are_hidden_from_a_benchmark_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os\nprint(json.dumps({'seen': os.environ['CUDA_VISIBLE_DEVICES']}))\n", encoding="utf-8"
    )
    assert harness.Machine(1, gpu=gpu).process("sartor", script, []) == {"seen": seen}


def test_the_measured_commit_is_noted() -> None:
    assert len(harness.commit().removesuffix("-dirty")) >= 7


def test_an_environment_that_is_not_there_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "CACHE", tmp_path)
    with pytest.raises(MachineError, match="trl is not installed") as found:
        harness.Machine(1).process("trl", tmp_path / "script.py", [])
    assert found.value.hint == "bash bench/setup.sh trl"


def test_ticks_add_up() -> None:
    ticks = harness.machine_ticks()
    assert 0 < ticks.busy <= ticks.total
    assert ticks.steal >= 0
