"""Runs: the same run for the same question, checkpoints that survive, and one process at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sartor import durable, names, store
from sartor.backends.fake import FakeBackend
from sartor.data.pack import Steps
from sartor.errors import MachineError, RecipeError, UserError
from sartor.recipe import load
from sartor.store import Run

from .plans import plan, segments

PLAN = "a digest"  # of what decides the weights
RECIPE = "model: m\ndata: {train: Tickets 1.jsonl}\ntask: exact\n"


class Number:
    """The smallest thing that can be saved."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def save(self, folder: Path) -> None:
        durable.write_json(folder / "number.json", {"value": self.value})

    def load(self, folder: Path) -> None:
        self.value = int(json.loads((folder / "number.json").read_text())["value"])


def open_run(folder: Path, *overrides: str, rows: str = "{}\n") -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "Tickets 1.jsonl").write_text(rows)
    (folder / "sartor.yaml").write_text(RECIPE)
    return store.open_run(folder / "sartor.yaml", load(folder / "sartor.yaml", overrides))


# ---- the run of a recipe ---------------------------------------------------------------------------------------------


def test_verbs_meet_in_the_run_of_recipe_and_data(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    assert open_run(tmp_path).folder == run.folder
    assert run.folder.parent == tmp_path / "runs"
    assert run.id.startswith("tickets-1-")
    assert len(run.id.removeprefix("tickets-1-")) == 8
    assert open_run(tmp_path, "tune.seed=18").id != run.id
    assert open_run(tmp_path, rows="{} \n").id != run.id
    assert run.recipe.data.train == str((tmp_path / "Tickets 1.jsonl").resolve())


def test_the_id_does_not_depend_on_the_place(tmp_path: Path) -> None:
    assert open_run(tmp_path / "here").id == open_run(tmp_path / "there").id


def test_own_test_and_dev_files_are_part_of_the_id(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("one")
    first = open_run(tmp_path, "data.test=test.jsonl")
    (tmp_path / "test.jsonl").write_text("two")
    assert open_run(tmp_path, "data.test=test.jsonl").id != first.id
    assert first.recipe.data.test == str((tmp_path / "test.jsonl").resolve())


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`data.dev` is 'dev.jsonl': there is no such file") as caught:
        open_run(tmp_path, "data.dev=dev.jsonl")
    assert str(tmp_path) in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_runs_are_found_by_folder_name_and_id(tmp_path: Path) -> None:
    first, second = open_run(tmp_path), open_run(tmp_path, "tune.seed=18")
    os.utime(first.folder, (1, 1))
    assert [run.id for run in store.all_runs(tmp_path)] == [second.id, first.id]
    for name in (first.id, first.id.rpartition("-")[2], str(first.folder)):
        assert store.find_run(tmp_path, name).folder == first.folder
    with pytest.raises(UserError, match="2 runs fit 'tickets'") as caught:
        store.find_run(tmp_path, "tickets")
    assert first.id in caught.value.hint
    assert second.id in caught.value.hint
    with pytest.raises(UserError, match="0 runs fit 'other'") as caught:
        store.find_run(tmp_path, "other")
    assert first.id in caught.value.hint
    with pytest.raises(UserError, match="0 runs fit") as caught:
        store.find_run(tmp_path / "nowhere", "x")
    assert caught.value.hint.endswith("none")


def test_a_run_that_is_named_from_within_has_name_and_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(tmp_path)
    linked = tmp_path / "runs" / "linked"
    linked.symlink_to(run.folder.rename(tmp_path / "elsewhere"))
    run.folder.symlink_to(linked.resolve())
    for inside, name in (
        ("runs", run.id),
        ("", f"runs/{run.id}"),
        (".", str(run.folder)),
        ("runs", f"../runs/{run.id}"),
    ):
        monkeypatch.chdir(tmp_path / inside)
        found = store.find_run(Path(), name)
        assert (found.id, found.root, found.folder.is_absolute()) == (run.id, tmp_path.resolve(), True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.find_run(Path(), ".").id == "elsewhere"


def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"half"')
    with pytest.raises(MachineError, match=r"plan.json is damaged") as caught:
        store.read_json(tmp_path / "plan.json")
    assert "delete it" in caught.value.hint


# ---- stages ----------------------------------------------------------------------------------------------------------


def test_a_stage_is_done_for_its_inputs_and_its_files(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    assert not run.is_done("plan", "inputs")
    durable.write_json(run.path("plan.json"), {"steps": 1})
    assert not run.is_done("plan", "inputs")
    run.finish("plan", "inputs", 1.23456)
    assert run.is_done("plan", "inputs")
    assert not run.is_done("plan", "other inputs")
    assert run.stage_seconds("plan") == 1.235
    assert run.stage_seconds("train") == 0.0
    run.finish("prove", "x", 1.0)
    assert run.stages_done() == ["plan", "prove"]
    durable.write_json(run.path("plan.json"), {"steps": 2})
    assert not run.is_done("plan", "inputs")
    run.path("plan.json").unlink()
    assert not run.is_done("plan", "inputs")


def test_a_stage_that_made_a_folder_is_done_while_the_folder_is_whole(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.export(lambda folder: durable.write_json(folder / "adapter.json", {"r": 8}))
    run.finish("train", "inputs", 1.0)
    assert run.is_done("train", "inputs")
    run.path("adapter/adapter.json").write_text('{"r": 9}')
    assert not run.is_done("train", "inputs")


@pytest.mark.parametrize(("family", "folder"), [("lora", "adapter"), ("full", "model")])
def test_the_plan_says_what_comes_out_of_training(tmp_path: Path, family: str, folder: str) -> None:
    run = open_run(tmp_path)
    assert run.result == run.path("adapter")
    durable.write_json(run.path("plan.json"), plan(family=family).model_dump(mode="json", by_alias=True))
    assert run.export(lambda staging: durable.write_json(staging / "config.json", {})) == run.path(folder) == run.result
    run.finish("train", "inputs", 1.0)
    assert run.is_done("train", "inputs")
    shutil.rmtree(run.path(folder))
    assert not run.is_done("train", "inputs")


def test_a_stage_is_borrowed_from_a_run_that_did_it(tmp_path: Path) -> None:
    lender, run, damaged = open_run(tmp_path), open_run(tmp_path, "tune.seed=18"), open_run(tmp_path, "tune.seed=19")
    durable.write_json(lender.path("baseline.json"), {"score": 1})
    lender.finish("baseline", "inputs", 2.0)
    damaged.path("stages.json").write_text("{")
    (tmp_path / "runs" / "a file").write_text("")
    assert run.borrow("baseline", "inputs") == "", "the items are missing there"
    durable.append(lender.path("items.baseline.jsonl"), "{}")
    lender.finish("baseline", "inputs", 2.0)
    assert run.borrow("baseline", "other inputs") == ""
    assert not run.path("baseline.json").exists()
    assert run.borrow("baseline", "inputs") == lender.id
    assert run.is_done("baseline", "inputs")
    assert run.path("baseline.json").read_bytes() == lender.path("baseline.json").read_bytes()


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_two_checkpoints_are_kept_and_the_newest_comes_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.restore([Number()], PLAN) == 0
    for step in (5, 10, 15):
        assert run.save(step, [Number(step)], PLAN).name == f"step-{step:06d}"
    assert [path.name for path in run.checkpoints()] == ["step-000015", "step-000010"]
    number = Number()
    assert run.restore([number], PLAN) == 15
    assert number.value == 15
    assert run.skipped_checkpoints == []


def test_the_millionth_step_is_newer_than_the_one_before(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (999_998, 999_999, 1_000_000):
        run.save(step, [Number(step)], PLAN)
    assert [path.name for path in run.checkpoints()] == ["step-1000000", "step-999999"]
    assert run.restore([Number()], PLAN) == 1_000_000


@pytest.mark.parametrize("damage", ["flip", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path: Path, damage: str) -> None:
    run = Run(tmp_path)
    run.save(5, [Number(5)], PLAN)
    newest = run.save(10, [Number(10)], PLAN)
    if damage == "flip":
        (newest / "number.json").write_text((newest / "number.json").read_text().replace("10", "11"))
    else:
        (newest / ("number.json" if damage == "missing" else durable.MANIFEST)).unlink()
    number = Number()
    assert run.restore([number], PLAN) == 5
    assert number.value == 5
    assert len(run.skipped_checkpoints) == 1
    assert "step-000010" in run.skipped_checkpoints[0]
    run.save(10, [Number(12)], PLAN)
    assert Run(tmp_path).restore([number], PLAN) == 10
    assert number.value == 12


def test_no_whole_checkpoint_means_from_the_start(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (5, 10):
        (run.save(step, [Number(step)], PLAN) / "state.json").write_text("")
    number = Number(3)
    assert run.restore([number], PLAN) == 0
    assert number.value == 3
    assert len(run.skipped_checkpoints) == 2
    assert run.checkpoints() == []


def test_a_checkpoint_of_another_plan_is_named_and_removed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(5, [Number(5)], PLAN)
    run.save(900, [Number(900)], "another digest")
    number = Number()
    assert run.restore([number], PLAN) == number.value == 5
    (problem,) = run.skipped_checkpoints
    assert "step-000900 is of another plan" in problem
    run.save(6, [Number(6)], PLAN)
    assert [path.name for path in run.checkpoints()] == ["step-000006", "step-000005"], "the newest of this plan"


def test_a_checkpoint_that_names_no_plan_is_of_another(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with durable.atomic_dir(tmp_path / "checkpoints/step-000005") as staging:
        durable.write_json(staging / "state.json", {"schema": 1, "step": 5})
    assert run.restore([Number()], PLAN) == 0
    assert run.checkpoints() == []


@pytest.mark.parametrize("fault", ["ENOSPC", "kill"])
def test_a_save_that_fails_anywhere_leaves_a_whole_checkpoint(tmp_path: Path, fault: str) -> None:
    backend, steps = FakeBackend(plan()), Steps(segments(8), batch_size=2, micro_tokens=16, seed=3)
    objective = names.resolve("objectives", "sft")
    backend.forward_backward(next(steps)[0], objective, objective.Config(), 1.0)
    before = Run(tmp_path / "before")
    for step in (1, 2):
        before.save(step, [backend, steps], PLAN)
    outcomes = set()
    for number in range(1, 60):
        run = Run(tmp_path / str(number))
        shutil.copytree(before.folder, run.folder)
        child = os.fork()
        if child == 0:
            code = 4
            try:
                os.environ[durable.FAILPOINT] = f"{number}:{fault}"
                run.save(3, [backend, steps], PLAN)
                code = 0
            except MachineError as error:
                code = 3 if "disk is full" in error.message else 4
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL if fault == "kill" else 3)
        step = run.restore([FakeBackend(plan()), Steps(segments(8), batch_size=2, micro_tokens=16, seed=3)], PLAN)
        outcomes.add(step)
        assert step in ((2, 3) if code else (3,))
        assert run.skipped_checkpoints == []
        assert list(run.path("checkpoints").glob(f"{durable.STAGING}*")) == []
        if code == 0:
            break
    assert outcomes == {2, 3}


def test_a_disk_that_is_really_full_says_so(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk: safetensors meets it in its own code and raises its own error."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from safetensors.torch import save_file\n"
        "from sartor.errors import MachineError\n"
        "from sartor.store import Run\n"
        "class Weights:\n"
        "    def save(self, folder): save_file({'w': torch.zeros(5000)}, folder / 'w.safetensors')\n"
        "run = Run(Path(sys.argv[1]))\n"
        "run.save(1, [Weights()], 'x')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: run.save(2, [Weights()], 'x')\n"
        "except MachineError as error: sys.stdout.write(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "writing step-000002 failed: File too large"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert durable.verify(tmp_path / "checkpoints" / "step-000001") == ""


def test_the_export_is_sealed(tmp_path: Path) -> None:
    backend = FakeBackend(plan())
    folder = Run(tmp_path).export(backend.export)
    assert folder == tmp_path / "adapter"
    assert durable.verify(folder) == ""
    assert torch.isfinite(backend._table_VV).all()


# ---- events ----------------------------------------------------------------------------------------------------------


def test_events_that_were_done_again_are_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert list(run.events()) == []
    first = [{"type": "answered"}, {"type": "started", "step": 0}]
    first += [{"type": "stepped", "step": step, "try": 1} for step in range(1, 8)]
    first.insert(6, {"type": "saved", "step": 4})
    again = [{"type": "warned"}, {"type": "started", "step": 4}]
    again += [{"type": "stepped", "step": step, "try": 2} for step in range(5, 9)]
    for event in first + again:
        durable.append(run.path("events.jsonl"), json.dumps(event))
    kept = list(run.events())
    assert [(event["step"], event["try"]) for event in kept if event["type"] == "stepped"] == [
        *((step, 1) for step in range(1, 5)),
        *((step, 2) for step in range(5, 9)),
    ]
    others = [event["type"] for event in kept if event["type"] != "stepped"]
    assert others == ["answered", "started", "saved", "warned", "started"]


# ---- one process at a time -------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_works_here(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    assert run.worker() == 0
    code = (
        "import sys; from pathlib import Path; from sartor.store import Run\n"
        "with Run(Path(sys.argv[1])).locked(): sys.stdout.write('in\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        assert run.worker() == other.pid
        with (
            pytest.raises(UserError, match=f"{run.id} is being worked on by process {other.pid}") as caught,
            run.locked(),
        ):
            pass
        assert "sartor stop" in caught.value.hint
        other.kill()
    assert run.worker() == 0
    with run.locked():
        assert run.worker() == os.getpid()
    assert run.worker() == 0


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    with pytest.raises(RuntimeError), run.locked():
        raise RuntimeError
    assert run.worker() == 0
    with run.locked():
        pass


def test_who_takes_the_lock_clears_what_killed_processes_left(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.export(lambda folder: durable.write_json(folder / "adapter.json", {"r": 8}))
    run.path("adapter").rename(run.path(".staging-old-adapter"))  # killed between the two renames
    run.path(".staging-7-adapter").mkdir()
    run.path("data").mkdir()
    run.path("data/.staging-7-train.jsonl").write_text("half")
    with run.locked():
        assert durable.verify(run.path("adapter")) == ""
        assert list(run.folder.rglob(".staging-*")) == []
