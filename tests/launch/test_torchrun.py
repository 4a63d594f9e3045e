"""`sartor train --ranks 2` in real processes: the result, a signal, a killed rank, an error that comes back whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sartor import durable
from sartor.errors import MachineError, Refused, UserError
from sartor.hardware import Hardware
from sartor.launch import torchrun
from sartor.launch.torchrun import STOPPED, _pass_on, held_by, launch, refuse_if_too_many, told
from sartor.plan import Estimate, Memory, Plan
from sartor.stages import Bench
from sartor.store import Run, all_runs

from ..plans import plan  # noqa: TID252 - the tests are no package that could be imported by name

MANY = ("--set", "tune.steps=100000")


@pytest.fixture
def project(tmp_path: Path, tiny_folder: Path) -> Path:
    rows = [{"prompt": f"Say {n} twice.", "completion": f"{n} {n}"} for n in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sartor.yaml").write_text(f"model: {tiny_folder}\ndata: rows.jsonl\ntask: {{metric: exact}}\n")
    return tmp_path


def sartor(project: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sartor.cli", *arguments]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def events(project: Path, kind: str) -> list[dict[str, Any]]:
    return [event for run in all_runs(project) for event in run.events() if event["type"] == kind]


def trained_to(project: Path, step: int, process: subprocess.Popen[str]) -> Run:
    """Wait until some steps are done."""
    for _ in range(1200):
        if process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[1]}")
        if any(event["step"] >= step for event in events(project, "stepped")):
            return all_runs(project)[0]
        time.sleep(0.1)
    pytest.fail("no step was done in two minutes")


def children(process: int) -> Iterator[int]:
    """The processes below one, on Linux."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it is gone already
            continue
        if parent == process:
            yield int(folder.name)


@pytest.mark.slow
def test_two_ranks_train_stop_go_on_and_die(project: Path) -> None:
    process = sartor(project, "train", "--ranks", "2", *MANY)
    run = trained_to(project, 2, process)
    os.kill(process.pid, signal.SIGTERM)
    code, _, err = end(process)
    assert (code, "Traceback" in err) == (STOPPED, False), err
    (stopped,) = events(project, "stopped")
    assert run.checkpoints()[0].name == f"step-{stopped['step']:06d}"
    assert durable.verify(run.checkpoints()[0]) == ""

    process = sartor(project, "train", "--ranks", "2", *MANY)
    trained_to(project, stopped["step"] + 2, process)
    assert events(project, "started")[-1]["step"] == stopped["step"]
    (other,) = [child for child in children(process.pid) if child != run.worker()]
    os.kill(other, signal.SIGKILL)
    code, _, err = end(process)
    assert (code, "Traceback" in err) == (3, False), err
    assert "rank 1 was killed by SIGKILL" in err
    assert run.worker() == 0


@pytest.mark.slow
def test_two_ranks_finish_and_what_is_done_is_not_done_again(project: Path) -> None:
    code, out, err = end(sartor(project, "train", "--ranks", "2", "--set", "tune.steps=3", "--json"))
    assert (code, "Traceback" in err) == (0, False), err
    assert [event["step"] for event in events(project, "stepped")] == [1, 2, 3]
    assert durable.verify(Path(project, json.loads(out)["adapter"])) == ""
    code, _, err = end(sartor(project, "train", "--ranks", "2", "--set", "tune.steps=3"))
    assert (code, "train: unchanged, skipped" in err) == (0, True), err


def test_the_first_cause_is_told() -> None:
    ours = {"message": {"message": "the loss is not finite", "hint": "look at the rows", "extraInfo": {}}}
    found = told([(3, 1, "x", ours), (3, 0, "y", {})])
    assert (type(found), found.message, found.hint) == (MachineError, "the loss is not finite", "look at the rows")
    assert type(told([(2, 0, "x", ours)])) is UserError
    assert type(told([(1, 0, "x", ours)])) is Refused
    killed = told([(3, 0, "x", ours), (-9, 1, "y", {})])
    assert killed.message == "rank 1 was killed by SIGKILL; the others were stopped"
    assert "goes on from its checkpoint" in killed.hint
    bare = told([(7, 2, "see elsewhere", {"message": "m"})])
    assert bare.message == "rank 2 ended with exit code 7: see elsewhere"


def test_a_run_that_ends_meanwhile_is_not_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 would be this whole group of processes."""
    killed: list[int] = []
    workers = iter([4711, 0, 0])
    monkeypatch.setattr(Run, "worker", lambda run: next(workers))
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append(process))
    _pass_on(Run(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        _pass_on(Run(tmp_path))
    assert killed == [4711]


GIB = 2**30


def planned(weights: int, *, moments: int = 8, family: str = "lora", quantize: str = "none") -> Plan:
    """A plan whose phases take so many GiB: 1 and weights; in training also moments, and 1 kept."""
    held = Memory(runtime=GIB, weights=weights * GIB)
    load = held.model_copy(update={"mapped": weights * GIB})
    train = held.model_copy(update={"moments": moments * GIB, "kept": GIB})
    memory = {"load": load, "train": train, "evaluate": held, "save": held, "resume": held}
    model = plan().model.model_copy(update={"quantize": quantize})
    return plan(
        family=family,
        model=model,
        estimate=Estimate(peak_bytes=max(load.total, train.total), seconds=1, tokens=1, memory=memory),
    )


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (planned(2), 3 * (1 + 2 + 8) + 1),  # what is kept is one part of the machine's memory for all
        (planned(20, moments=80), 3 * (1 + 80) + 20 + 1),  # too large a base for each: they shard it, but no adapter
        (planned(20, quantize="nf4"), 3 * (1 + 20 + 8) + 1),  # packed weights stay whole
        (planned(2, family="full"), 3 * 1 + 2 + 8 + 1),
        (planned(2, moments=0, family="full"), 3 * (1 + 2) + 2),  # loading: all of it in each, of one file
    ],
)
def test_what_ranks_hold_together(made: Plan, wanted: int) -> None:
    assert held_by(made, 3, 64 * GIB) / GIB == wanted
    assert held_by(made, 1, 64 * GIB) == made.estimate.peak_bytes


def machine_of(num_bytes: int) -> Hardware:
    sizes = {"memory_bytes": num_bytes, "free_memory_bytes": num_bytes, "free_disk_bytes": 0}
    return Hardware(processor="p", num_cores=4, has_bf16=False, **sizes)


def test_more_ranks_than_the_memory_holds_are_refused_with_the_way_out() -> None:
    made, machine = planned(2), machine_of(40 * GIB)
    refuse_if_too_many(made, 3, machine)
    with pytest.raises(MachineError, match=r"8 ranks need 89.0 GiB together; this machine has 40.0 GiB") as caught:
        refuse_if_too_many(made, 8, machine)
    assert caught.value.message.endswith("of which 36.0 can be used")
    assert caught.value.hint.startswith("give --ranks 3;")


def test_they_are_refused_before_any_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torchrun, "is_done", lambda bench, stage: False)
    durable.write_json(tmp_path / "plan.json", planned(2).model_dump(mode="json", by_alias=True))
    with pytest.raises(MachineError, match="9000 ranks need"):
        launch(Bench(Run(tmp_path)), 9000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_is_that_of_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from torch.distributed import run as ranks
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def stopped(arguments: Any) -> None:
        signal.raise_signal(number)
        raise ChildFailedError("rank", {0: ProcessFailure(0, 1, STOPPED, str(tmp_path / "none"))})

    monkeypatch.setattr(torchrun, "is_done", lambda bench, stage: False)
    monkeypatch.setattr(torchrun, "_pass_on", lambda run: None)
    monkeypatch.setattr(ranks, "run", stopped)
    durable.write_json(tmp_path / "plan.json", planned(0).model_dump(mode="json", by_alias=True))
    assert launch(Bench(Run(tmp_path)), 1) == 128 + number
