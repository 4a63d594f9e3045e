"""`sartor train --ranks 2` in real processes: the result, a signal, a killed rank, an error that comes back whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sartor import durable
from sartor.backends import estimate
from sartor.backends.estimate import CPU
from sartor.catalogue import CATALOGUE
from sartor.cli.common import train_on
from sartor.errors import MachineError, Refused, UserError
from sartor.explain import planned_job
from sartor.hardware import Hardware
from sartor.launch import torchrun
from sartor.launch.torchrun import STOPPED, _pass_on, held_by, launch, refuse_if_too_many, require_gpus, told
from sartor.plan import Choice, Estimate, Memory, Plan
from sartor.sizing import shape_of
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
    for each in (*children(process.pid), process.pid):  # all of them, as systemd and SLURM do
        os.kill(each, signal.SIGTERM)
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
    killed: list[tuple[int, int]] = []
    workers = iter([4711, 0, 0])
    monkeypatch.setattr(Run, "worker", lambda run: next(workers))
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append((process, number)))
    _pass_on(Run(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        _pass_on(Run(tmp_path))
    assert killed == [(4711, signal.SIGUSR1)], "a second SIGTERM would be one to leave at once"


GIB = 2**30
SHAPE = next(shape_of(card) for card in CATALOGUE if card.name == "smollm2-135m-instruct")


def planned(weights: int, *, moments: int = 8, method: str = "lora", quantize: str = "none") -> Plan:
    """A plan whose phases take so many GiB: 1 and weights; in training also moments, and 1 kept."""
    held = Memory(runtime=GIB, weights=weights * GIB)
    load = held.model_copy(update={"mapped": weights * GIB})
    train = held.model_copy(update={"moments": moments * GIB, "kept": GIB})
    memory = {"load": load, "train": train, "evaluate": held, "save": held, "resume": held}
    return plan(
        adapter=Choice(name=method),
        family=method,
        model=plan().model.model_copy(update={"quantize": quantize}),
        estimate=Estimate(peak_bytes=max(load.total, train.total), seconds=1, tokens=1, memory=memory),
    )


@pytest.mark.parametrize(
    ("made", "room", "wanted"),
    [
        (planned(2), 64, 3 * (1 + 2 + 8) + 1),  # what is kept is one part of the machine's memory for all
        (planned(2, quantize="nf4"), 1, 3 * (1 + 2 + 8) + 1),  # packed weights stay whole
        (planned(20), 1, 3 * (1 + 20) + 20),  # too large a base for each: they share it, after each has loaded all
        (planned(20, method="full"), 64, 3 * (1 + 20) + 20),
    ],
)
def test_what_ranks_hold_together(made: Plan, room: int, wanted: int) -> None:
    assert held_by(made, SHAPE, 3, room * GIB) / GIB == wanted
    assert held_by(made, SHAPE, 1, 64 * GIB) == made.estimate.peak_bytes


def test_ranks_that_share_the_base_out_keep_more_of_each_token() -> None:
    """They compute by transformers' layers: half of the weights each, and yet more than two processes."""
    made = planned(0, method="full")
    made = made.model_copy(update={"micro_tokens": 1024, "batch_size": 8, "max_length": 200, "recompute": "mlp"})
    job = planned_job(made.model_copy(update={"recompute": "layer"}), SHAPE)
    alone = estimate.memory(job, CPU)
    made = made.model_copy(update={"estimate": made.estimate.model_copy(update={"memory": alone, "fullest": 300})})
    each = estimate.memory(replace(job, devices=2, shards=2), CPU)["train"]
    assert held_by(made, SHAPE, 2, 64 * GIB) == 2 * each.total
    assert each.weights == alone["train"].weights // 2
    assert each.layer > alone["train"].layer
    few = made.model_copy(update={"max_length": 20})
    assert held_by(few, SHAPE, 2, 64 * GIB) < 2 * each.total, "a step has no more"


def test_ranks_with_a_gpu_each_are_planned_for_and_what_they_trained_stays_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else proving and packaging, which have no ranks, would plan anew and train again."""
    run = Run(tmp_path)
    assert Bench(run, ranks=4).devices == 1, "ranks on a CPU share its memory"
    monkeypatch.setattr("sartor.stages.with_gpu", lambda found: found.model_copy(update={"device": "cuda"}))
    assert Bench(run, ranks=4).devices == 4
    durable.write_json(run.path("plan.json"), planned(2).model_copy(update={"devices": 4}).model_dump(mode="json"))
    assert (Bench(run).devices, Bench(run, ranks=2).devices) == (1, 2), "nothing is trained yet"
    run.result.mkdir()
    assert (Bench(run).devices, Bench(run, ranks=2).devices) == (4, 4)


def machine_of(num_bytes: int) -> Hardware:
    sizes = {"memory_bytes": num_bytes, "free_memory_bytes": num_bytes, "free_disk_bytes": 0}
    return Hardware(processor="p", num_cores=4, has_bf16=False, **sizes)


def test_more_ranks_than_the_memory_holds_are_refused_with_the_way_out() -> None:
    made, machine = planned(2), machine_of(40 * GIB)
    refuse_if_too_many(made, SHAPE, 3, machine)
    with pytest.raises(MachineError, match=r"8 ranks need 89.0 GiB together; this machine has 40.0 GiB") as caught:
        refuse_if_too_many(made, SHAPE, 8, machine)
    assert caught.value.message.endswith("of which 36.0 can be used")
    assert caught.value.hint.startswith("give --ranks 3;")


def test_they_are_refused_before_any_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torchrun, "is_done", lambda bench, stage: False)
    durable.write_json(tmp_path / "plan.json", planned(2).model_dump(mode="json", by_alias=True))
    bench = Bench(Run(tmp_path))
    bench.shape = SHAPE
    monkeypatch.setattr(torchrun, "look", lambda folder: machine_of(GIB))
    with pytest.raises(MachineError, match="2 ranks need"):
        launch(bench, 2)


def test_more_ranks_than_gpus_are_refused_before_anything_is_computed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    require_gpus(4)  # ranks without a GPU share the processor
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    require_gpus(1)
    with pytest.raises(UserError, match="4 ranks want a GPU each, and there are 1"):
        train_on(4, project / "sartor.yaml", None, "")
    assert not all_runs(project)


def test_an_encoder_is_refused_before_any_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrun, "is_done", lambda bench, stage: False)
    made = planned(2).model_copy(update={"backend": "padded"})
    durable.write_json(tmp_path / "plan.json", made.model_dump(mode="json", by_alias=True))
    with pytest.raises(UserError, match="in one process") as caught:
        launch(Bench(Run(tmp_path)), 2)
    assert caught.value.hint == "leave out --ranks"


def ended(folder: Path, monkeypatch: pytest.MonkeyPatch, *codes: int, number: signal.Signals | None = None) -> int:
    """What `launch` gives where ranks end with these codes, after this process had a signal."""
    from torch.distributed import run as ranks
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def stopped(arguments: Any) -> None:
        if number is not None:
            signal.raise_signal(number)
        none = str(folder / "none")
        raise ChildFailedError("rank", {rank: ProcessFailure(rank, 1, code, none) for rank, code in enumerate(codes)})

    monkeypatch.setattr(torchrun, "is_done", lambda bench, stage: False)
    monkeypatch.setattr(torchrun, "_pass_on", lambda run: None)
    monkeypatch.setattr(ranks, "run", stopped)
    durable.write_json(folder / "plan.json", planned(0).model_dump(mode="json", by_alias=True))
    bench = Bench(Run(folder))
    bench.shape = SHAPE
    return launch(bench, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_is_that_of_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    assert ended(tmp_path, monkeypatch, STOPPED, number=number) == 128 + number


def test_a_stop_that_asks_a_rank_and_not_its_launcher_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(tmp_path, monkeypatch, -signal.SIGTERM, STOPPED) == STOPPED
    for codes in ((-signal.SIGTERM, -signal.SIGTERM), (3, STOPPED)):  # ended by others, and by an error
        with pytest.raises(MachineError, match="rank 0"):
            ended(tmp_path, monkeypatch, *codes)
