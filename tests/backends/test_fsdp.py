"""Two ranks give the trajectory of one, whichever way the model is held; gloo on the CPU, in real processes.

One torchrun trains all cases (tests/rank_worker.py): starting it costs more than they do. NCCL needs a GPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sartor import durable
from sartor.backends import fsdp
from sartor.backends.ranks import Alone, Place
from sartor.backends.torch import TorchBackend
from sartor.backends.updates import STATE, Updates
from sartor.errors import MachineError, RecipeError
from sartor.plan import Plan

from ..rank_worker import work  # noqa: TID252 - the tests are no package that could be imported by name

WORKER = Path(__file__).parent.parent / "rank_worker.py"
#: How the model is held -> method, whether the worker must shard it.
HELD = {"replicated": ("lora", False), "sharded": ("lora", True), "full": ("full", False)}
RATES = {"sgd": 0.02, "adamw": 1e-4}
#: held-optimizer, in fp32; then in bf16.
CASES = [*(f"{held}-{optimizer}" for held in HELD for optimizer in RATES), *(f"{held}-sgd-bfloat16" for held in HELD)]
MakePlan = Callable[..., Plan]


@dataclass(frozen=True)
class Ranks:
    """What two ranks left behind: their runs' folders, and the events that each of them saw."""

    root: Path
    plans: dict[str, Plan]

    def folder(self, name: str) -> Path:
        return self.root / name

    def events(self, name: str, rank: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.root / f"{name}.{rank}.json").read_text())
        return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, make_plan: MakePlan) -> Ranks:
    root = tmp_path_factory.mktemp("ranks")
    plans: dict[str, Plan] = {}
    cases: list[dict[str, Any]] = []

    def add(name: str, case: str, *, into: str = "", dropout: float = 0.0, **more: str) -> None:
        held, optimizer, *dtype = case.split("-")
        method, shard = HELD[held]
        folder = root / (into or name)
        plans[name] = make_plan(
            tiny_folder,
            optimizer=optimizer,
            learning_rate=RATES[optimizer],
            adapter={"name": method, "settings": {"r": 4, "dropout": dropout} if method == "lora" else {}},
            family=method,
            steps=6,
            save_every=3,
            evaluate_every=6,
            micro_tokens=40,
            dtype=dtype[0] if dtype else "float32",
        )
        folder.mkdir(exist_ok=True)
        durable.write_json(folder / "plan.json", plans[name].model_dump(mode="json", by_alias=True))
        case = {"name": name, "folder": str(folder), "plan": plans[name].model_dump(mode="json", by_alias=True)}
        cases.append({**case, "shard": shard, "stop_on": "", "poison": "", **more})

    for case in CASES:
        add(case, case)
    add("poisoned", "replicated-sgd", poison="row 3")
    add("stopped", "sharded-sgd", stop_on="1:2")
    add("dropout", "replicated-sgd", dropout=0.3)
    add("dropout-stopped", "replicated-sgd", dropout=0.3, stop_on="0:3")
    add("dropout-onward", "replicated-sgd", dropout=0.3, into="dropout-stopped")
    for held in HELD:
        name = f"{held}-onward"
        add(name, f"{held}-adamw")
        work(plans[name], root / name)
        shutil.rmtree(root / name / "checkpoints/step-000006")  # as if one rank had been killed after step 3
    (root / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER)]
    done = subprocess.run([*command, str(root / "cases.json"), str(root)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[:3000]
    return Ranks(root, plans)


def losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if event["type"] in ("stepped", "evaluated")]


def state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoints/step-{step:06d}" / STATE)


def furthest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def weights(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: item for name, item in found.items() if name.startswith("weight.")}


#: How far Adam carries the last bits of a sum, where every weight is trained; all else stays within 1e-6.
LAST_BITS = {"full-adamw": 3e-6}
#: Ranks that share the base out compute by transformers' layers, which round at other places in bf16 than our kernels.
ROUNDED_ELSEWHERE = {"sharded-sgd-bfloat16", "full-sgd-bfloat16"}


def require_same_losses(name: str, found: list[float], wanted: list[float]) -> None:
    assert found == pytest.approx(wanted, rel=3e-3 if name in ROUNDED_ELSEWHERE else 1e-6)


def require_same_weights(name: str, found: Path, wanted: Path, start: Path) -> None:
    """After step 6 of two runs' folders; `start` has the weights after step 3."""
    left, right = (weights(state(folder, 6)) for folder in (found, wanted))
    before = weights(state(start, 3))
    assert furthest(right, before) > 1e-4
    if name not in ROUNDED_ELSEWHERE:
        assert furthest(left, right) < LAST_BITS.get(name, 1e-6)
    else:
        one, other = (torch.cat([(each[key] - before[key]).flatten() for key in before]) for each in (left, right))
        assert torch.cosine_similarity(one, other, dim=0) > 0.99


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_the_trajectory_of_one(ranks: Ranks, tmp_path: Path, name: str) -> None:
    plan = ranks.plans[name]
    durable.write_json(tmp_path / "plan.json", plan.model_dump(mode="json", by_alias=True))
    alone = work(plan, tmp_path)
    both = [ranks.events(name, rank) for rank in (0, 1)]
    assert losses(both[0]) == losses(both[1])
    require_same_losses(name, losses(both[0]), losses(alone))
    assert len(losses(alone)) == 7
    for kind, key in (("stepped", "num_tokens"), ("stepped", "num_supervised"), ("evaluated", "num_supervised")):
        assert [event[key] for event in both[0] if event["type"] == kind] == [
            event[key] for event in alone if event["type"] == kind
        ]
    require_same_weights(name, ranks.folder(name), tmp_path, tmp_path)
    found, wanted = state(ranks.folder(name), 6), state(tmp_path, 6)
    assert [len(each.pop("random")) for each in (found, wanted)] == [2, 1], "only that is not of one rank alone"
    assert {key: (item.shape, item.dtype) for key, item in found.items()} == {
        key: (item.shape, item.dtype) for key, item in wanted.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_one_rank_goes_on_from_the_checkpoint_of_two(ranks: Ranks, tmp_path: Path, name: str) -> None:
    shutil.copytree(ranks.folder(name), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step-000006")
    events = work(ranks.plans[name], tmp_path / "run")
    assert [event["step"] for event in events if event["type"] in ("started", "stepped")] == [3, 4, 5, 6]
    require_same_losses(name, losses(events), losses(ranks.events(name, 0))[-4:])
    require_same_weights(name, tmp_path / "run", ranks.folder(name), ranks.folder(name))


@pytest.mark.parametrize("held", HELD)
def test_two_ranks_go_on_from_the_checkpoint_of_one(ranks: Ranks, held: str) -> None:
    events = ranks.events(f"{held}-onward", 0)
    assert [event["step"] for event in events if event["type"] in ("started", "stepped")] == [3, 4, 5, 6]
    straight = ranks.folder(f"{held}-adamw")
    require_same_weights(f"{held}-adamw", ranks.folder(f"{held}-onward"), straight, straight)


def test_two_ranks_that_drop_out_go_on_bit_by_bit(ranks: Ranks) -> None:
    """Each with its own random numbers: the two ranks have not drawn the same, for they have other tokens."""
    onward = [ranks.events("dropout-onward", rank) for rank in (0, 1)]
    assert [event["step"] for event in onward[0] if event["type"] in ("started", "stepped")] == [3, 4, 5, 6]
    for rank in (0, 1):
        assert losses(onward[rank]) == losses(ranks.events("dropout", rank))[-4:]
    found, wanted = (state(ranks.folder(name), 6) for name in ("dropout-stopped", "dropout"))
    assert furthest(found, wanted) == 0.0
    assert not torch.equal(*found["random"])


@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_is_what_was_trained(ranks: Ranks, name: str) -> None:
    trained = weights(state(ranks.folder(name), 6))
    if name.startswith("full"):
        exported = load_file(ranks.folder(name) / "model/model.safetensors")
        assert exported.keys() == {key.removeprefix("weight.") for key in trained}
    else:
        exported = load_file(ranks.folder(name) / "adapter/adapter_model.safetensors")
        assert exported.keys() == {key.removeprefix("weight.").replace(".default", "") for key in trained}
    for key, item in trained.items():
        written = exported[key.removeprefix("weight.").replace(".default", "")]
        assert torch.equal(written, item.to(written.dtype))
        assert written.dtype == (torch.bfloat16 if name == "full-sgd-bfloat16" else torch.float32)


@pytest.mark.parametrize("name", [*CASES, "stopped", "full-onward"])
def test_only_rank_0_leaves_files(ranks: Ranks, name: str) -> None:
    files = {path.relative_to(ranks.folder(name)).parts[0] for path in ranks.folder(name).rglob("*")}
    assert files <= {"plan.json", "checkpoints", "adapter", "model"}
    for folder in ranks.folder(name).glob("checkpoints/*"):
        assert durable.verify(folder) == ""


def test_a_loss_that_is_not_finite_on_one_rank_is_refused_on_all(ranks: Ranks) -> None:
    for rank in (0, 1):
        last = ranks.events("poisoned", rank)[-1]
        assert last["type"] == "NumericsError"
        assert last["message"] == "the loss is not finite; rows of this step: row 3"


def test_all_ranks_stop_at_the_same_step_whichever_is_asked(ranks: Ranks) -> None:
    for rank in (0, 1):
        events = ranks.events("stopped", rank)
        assert [event["type"] for event in events][-2:] == ["saved", "stopped"]
        assert events[-1]["step"] == 2
    assert durable.verify(ranks.folder("stopped") / "checkpoints/step-000002") == ""


def test_nobody_leaves_before_all_are_ready_to(ranks: Ranks) -> None:
    """The first to end after a stop has torchrun end the others, and rank 0 may still write the checkpoint."""
    assert [(ranks.root / f"left.{rank}").read_text() for rank in (0, 1)] == ["True", "True"]


def test_a_sharded_base_is_said_to_be_one(ranks: Ranks) -> None:
    warned = [event["message"] for event in ranks.events("sharded-sgd", 0) if event.get("code") == "slow_path"]
    assert len(warned) == 1
    assert "sharded" in warned[0]
    assert not [event for event in ranks.events("replicated-sgd", 0) if event.get("code") == "slow_path"]


def test_a_base_must_leave_room(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    policy: Any = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert fsdp.fits(policy, Place(), torch.device("cpu"))
    monkeypatch.setattr("sartor.backends.ranks.LARGEST_BASE", 1e-9)
    assert not fsdp.fits(policy, Place(), torch.device("cpu"))


def test_a_rank_that_is_gone_is_an_error_in_words() -> None:
    with pytest.raises(MachineError, match="another rank has left") as caught, fsdp._waiting():
        raise RuntimeError("Connection closed by peer")
    assert "newest checkpoint" in caught.value.hint


def test_memory_that_runs_out_here_is_not_another_ranks_end() -> None:
    with pytest.raises(torch.OutOfMemoryError), fsdp._waiting():
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_only_the_rank_that_writes_keeps_what_all_gather() -> None:
    class Second(Alone):
        place = Place(rank=1, size=2)

    updates = object.__new__(Updates)
    kept = []
    for ranks in (Alone(), Second()):
        updates._ranks = ranks
        kept.append(updates.on_disk(torch.ones(3)).numel())
    assert kept == [3, 0]


def test_a_method_that_takes_layers_apart_is_refused_on_a_base_that_is_cut(
    make_plan: MakePlan, tiny_folder: Path
) -> None:
    class Cutting(Alone):
        def settle(self, policy: Any, *, trains: str) -> bool:
            return False

    with pytest.raises(RecipeError, match="this base is cut over the devices"):
        TorchBackend(make_plan(tiny_folder, adapter={"name": "lets", "settings": {}}, family="lets"), Cutting())


def test_ranks_that_would_save_at_other_steps_are_refused(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is of what decides the weights; but a save gathers, and all must come to it."""
    ours, theirs = (make_plan().model_copy(update={"save_every": every}) for every in (3, 4))

    class Elsewhere:
        def join(self, words: list[str]) -> list[str]:
            return [*words, *(word.replace(" 3", f" {theirs.save_every}") for word in words)]

    monkeypatch.setattr(fsdp, "Together", Elsewhere)
    assert ours.digest == theirs.digest
    with pytest.raises(MachineError, match="read different plans"):
        fsdp.open_backend(ours)
