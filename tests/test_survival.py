"""A run that is killed goes on, and ends with the very same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sartor import durable
from sartor.data.pack import Segment, Steps
from sartor.events import Saved, Stopped
from sartor.plan import Plan
from sartor.store import Run
from sartor.train import train

from .conftest import plan_for
from .survival import finish

HERE = Path(__file__).parent
KILLS = int(os.environ.get("SARTOR_TEST_KILLS", "6"))


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    """A tiny real model, 48 rows, 2.5 epochs of packed steps: everything real but the size."""
    rows = [
        {"prompt": f"Add {number} and {number + 3}.", "completion": f"The sum is {2 * number + 3}."}
        for number in range(48)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "sartor.yaml"
    recipe.write_text(
        f"model: {tiny_folder}\ndata: sums.jsonl\ntask: exact\n"
        "tune: {epochs: 1.25, batch_size: 4, save_every: 3, adapter: {name: lora, r: 4}}\n"
    )
    return recipe


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def test_killed_at_random_moments_it_ends_with_the_same_adapter(recipe: Path) -> None:
    command = [sys.executable, str(HERE / "survival.py"), str(recipe), "--kills", str(KILLS), "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS
    assert found["rounds_equal"] == found["rounds"] >= 1


def fake_run(folder: Path) -> tuple[Plan, Run, Steps]:
    rows = [
        Segment(row=f"row {n}", tokens=(n, n + 1, n + 2), targets=(n + 1, n + 2, n + 3), weights=(0.0, 1.0, 1.0))
        for n in range(10)
    ]
    plan = plan_for(backend="fake", steps=5, save_every=2, evaluate_every=5, clip=0.0)
    steps = Steps([[row] for row in rows], batch_size=3, micro_tokens=6, seed=plan.seed)
    folder.mkdir(parents=True, exist_ok=True)
    return plan, Run(folder), steps


def work_on(folder: Path) -> None:
    plan, run, steps = fake_run(folder)
    for _ in train(plan, run, steps, []):
        pass


def test_killed_before_each_file_operation_it_ends_with_the_same_adapter(tmp_path: Path) -> None:
    assert finish(lambda: work_on(tmp_path / "whole")) == 0
    wanted = durable.sha256(tmp_path / "whole/adapter/adapter_model.safetensors")
    number = 0
    while True:
        number += 1
        folder = tmp_path / f"killed-{number}"
        status = finish(lambda: work_on(folder), {durable.FAILPOINT: f"{number}:kill"})  # noqa: B023 - run at once
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert finish(lambda: work_on(folder)) == 0, f"killed before operation {number}, it did not go on"  # noqa: B023
        assert durable.sha256(folder / "adapter/adapter_model.safetensors") == wanted
        shutil.rmtree(folder)
    assert number > 40, "three saves and an export have more file operations than that"


def test_a_full_disk_at_each_file_operation_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        folder = tmp_path / f"full-{number}"
        status = finish(lambda: work_on(folder), {durable.FAILPOINT: f"{number}:ENOSPC"})  # noqa: B023
        if status == 0:
            break
        whole = [checkpoint for checkpoint in Run(folder).checkpoints() if not durable.verify(checkpoint)]
        assert len(whole) >= min(1, len(Run(folder).checkpoints()))
        assert not list(folder.rglob(f"{durable.STAGING}*"))
        shutil.rmtree(folder, ignore_errors=True)
    assert number > 40


def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path: Path) -> None:
    plan, run, steps = fake_run(tmp_path / "run")
    events = train(plan, run, steps, [])
    saved = [event for event in events if isinstance(event, Saved)]
    assert [event.step for event in saved] == [2, 4, 5]
    wanted = durable.sha256(run.path("adapter/adapter_model.safetensors"))
    newest = run.checkpoints()[0] / "trainer.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    plan, run, steps = fake_run(tmp_path / "run")
    told = list(train(plan, run, steps, []))
    assert "does not match its checksum" in told[0].message  # type: ignore[union-attr]
    assert told[1].step == 4  # type: ignore[union-attr]
    assert durable.sha256(run.path("adapter/adapter_model.safetensors")) == wanted


def test_a_signal_saves_and_leaves_and_the_run_goes_on(tmp_path: Path) -> None:
    plan, run, steps = fake_run(tmp_path / "run")
    told = []
    for event in train(plan, run, steps, []):
        told.append(event)
        if event.type == "stepped" and event.step == 3:
            run.stopping = True
    assert isinstance(told[-1], Stopped)
    assert told[-1].step == 3
    assert not run.path("adapter").exists()
    work_on(tmp_path / "run")
    work_on(tmp_path / "whole")
    adapters = [tmp_path / name / "adapter/adapter_model.safetensors" for name in ("run", "whole")]
    assert durable.sha256(adapters[0]) == durable.sha256(adapters[1])


def test_sigterm_to_the_command_line_saves_and_leaves(recipe: Path) -> None:
    command = [sys.executable, "-m", "sartor.cli", "train", str(recipe), "--set", "tune.epochs=1000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    events = None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        events = next(recipe.parent.glob("runs/*/events.jsonl"), None)
        if events and events.read_text().count('"stepped"') > 3:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 143, talk
    assert events is not None
    last = [json.loads(line) for line in events.read_text().splitlines()]
    assert last[-1]["type"] == "stopped"
    run = Run(events.parent)
    assert durable.verify(run.checkpoints()[0]) == ""
    assert run.checkpoints()[0].name == f"step-{last[-1]['step']:06d}"
    assert run.worker() == 0
