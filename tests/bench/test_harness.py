"""Fresh processes: what a failure says, and what is read of the machine."""

from __future__ import annotations

import sys
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


def test_a_failed_process_says_why_and_how_to_repeat_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise ValueError('no bf16')\n", encoding="utf-8")
    with pytest.raises(MachineError, match="no bf16") as found:
        harness.Machine(1).process("sartor", script, ["--steps", "2"])
    assert f"{sys.executable} {script} --threads 1 --steps 2" in found.value.hint


def test_an_environment_that_is_not_there_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "CACHE", tmp_path)
    with pytest.raises(MachineError, match="trl is not installed") as found:
        harness.Machine(1).process("trl", tmp_path / "script.py", [])
    assert found.value.hint == "bash bench/setup.sh trl"


def test_ticks_add_up() -> None:
    ticks = harness.machine_ticks()
    assert 0 < ticks.busy <= ticks.total
    assert ticks.steal >= 0
