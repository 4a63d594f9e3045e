"""AdaLoRA: the schedule to the unit, the penalty, going on to the bit, and what is saved when ranks have fallen."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import floor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sartor.adapters import adalora
from sartor.adapters.changes import LowRank, Weight
from sartor.adapters.hooks import Hooks
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack, segment
from sartor.objectives import sft
from sartor.plan import Adam, Plan

MakePlan = Callable[..., Plan]
IDS = torch.tensor([[1, 5, 9, 200, 3000]])
NUM_LAYERS = 2 * 7  # linear layers of the tiny model


def base_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def segments() -> list[Segment]:
    draw = torch.Generator().manual_seed(9)
    rows = [torch.randint(5, 2000, (20 + row,), generator=draw).tolist() for row in range(4)]
    return [segment(f"row {row}", ids, [1.0] * len(ids)) for row, ids in enumerate(rows)]


def plan_of(make_plan: MakePlan, folder: Path, **settings: Any) -> Plan:
    config = adalora.Config(init_r=4, target_r=2, delta_t=1, **settings).model_dump(mode="json")
    return make_plan(folder, adapter={"name": "adalora", "settings": config}, family="adalora", steps=10)


def train(backend: TorchBackend, num_steps: int) -> list[float]:
    losses = []
    for _ in range(num_steps):
        (batch,) = pack(segments(), micro_tokens=128)
        losses.append(backend.forward_backward(batch, sft, sft.Config(), sft.weight(batch)).loss)
        backend.step(Adam(learning_rate=1e-2))
    return losses


def unpacked(backend: TorchBackend) -> Any:
    """Its model, for rows as transformers has them."""
    backend._model.get_base_model().set_attn_implementation("sdpa")
    return backend._model


def num_left(model: Any) -> int:
    """Entries of Λ that are not zero."""
    return sum(int((item != 0).sum()) for name, item in model.named_parameters() if ".lora_E." in name)


# ---- settings --------------------------------------------------------------------------------------------------------


def test_the_published_count(trained_by: Callable[..., int]) -> None:
    asked = {"init_r": 64, "target_r": 32, "targets": ("q_proj", "v_proj")}
    assert trained_by("adalora", **asked) == 18_353_664


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"init_r": 8, "target_r": 8}, "no rank could fall"),
        ({"tinit": 0.5, "tfinal": 0.5}, "no share of the run"),
    ],
)
def test_a_schedule_without_room_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        adalora.Config(**settings)


# ---- the schedule ----------------------------------------------------------------------------------------------------


def stepped(folder: Path, config: adalora.Config, num_steps: int) -> list[int]:
    """Entries that are left after each step, with gradients that are drawn."""
    model = adalora.attach(base_model(folder), config)
    torch.manual_seed(2)
    left = []
    for step in range(1, num_steps + 1):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        adalora.HOOKS.after_step(model, config, step, num_steps)
        left.append(num_left(model))
    return left


def test_the_budget_is_the_papers_to_the_unit(tiny_folder: Path) -> None:
    config = adalora.Config(init_r=6, target_r=2, tinit=0.1, tfinal=0.4, delta_t=3)
    num_steps, start, end = 30, 3, 18
    first, last = 6 * NUM_LAYERS, 2 * NUM_LAYERS
    for step, left in enumerate(stepped(tiny_folder, config, num_steps), start=1):
        falls = start < step < end and step % 3 == 0
        share = (1 - (step - start) / (end - start)) ** 3
        budget = floor((first - last) * share + last) if falls else first
        assert left == (last if step >= end else budget), f"step {step}"


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_short_runs_have_a_schedule_too(tiny_folder: Path, num_steps: int) -> None:
    config = adalora.Config(init_r=4, target_r=1, delta_t=1)
    left = stepped(tiny_folder, config, num_steps)
    halfway = floor(NUM_LAYERS * (1 + 3 * 0.5**3))  # before they fall for the last time there must be a step
    assert left[-1] == (NUM_LAYERS if num_steps > 1 else halfway)


# ---- the penalty -----------------------------------------------------------------------------------------------------


def test_the_penalty_is_what_peft_adds_to_a_loss_of_its_own(tiny_folder: Path) -> None:
    config = adalora.Config(init_r=4, target_r=2, orth_reg_weight=0.7)
    model = adalora.attach(base_model(tiny_folder), config)
    with torch.no_grad():
        whole = model(input_ids=IDS, labels=IDS).loss
        own = model.get_base_model()(input_ids=IDS, labels=IDS).loss
    penalty = adalora.HOOKS.penalty(model, config)
    torch.testing.assert_close(penalty.detach(), whole - own)
    penalty.backward()
    moved = {name for name, item in model.named_parameters() if item.grad is not None}
    assert {name.split(".")[-2] for name in moved} == {"lora_A", "lora_B"}


def test_the_penalty_counts_once_a_step(tiny_folder: Path, make_plan: MakePlan) -> None:
    """However many micro-batches there are; and the loss that is reported is the data's."""
    norms, losses = [], []
    for micro_tokens in (16, 128):
        backend = TorchBackend(plan_of(make_plan, tiny_folder))
        batches = pack(segments(), micro_tokens=micro_tokens)
        weight = sum(sft.weight(batch) for batch in batches)
        losses.append(sum(backend.forward_backward(batch, sft, sft.Config(), weight).loss for batch in batches))
        norms.append(backend.step(Adam(learning_rate=0.0)))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    without = TorchBackend(plan_of(make_plan, tiny_folder, orth_reg_weight=0.0))
    for batch in pack(segments(), micro_tokens=128):
        without.forward_backward(batch, sft, sft.Config(), sft.weight(batch))
    assert without.step(Adam(learning_rate=0.0)) < 0.9 * norms[0]


# ---- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_at", [3, 8])
def test_going_on_from_a_checkpoint_is_the_same_run(
    tiny_folder: Path, tmp_path: Path, make_plan: MakePlan, saved_at: int
) -> None:
    """While ranks fall, and after."""
    plan = plan_of(make_plan, tiny_folder)
    whole = TorchBackend(plan)
    train(whole, saved_at)
    whole.save(tmp_path)
    expected = train(whole, 10 - saved_at)
    again = TorchBackend(plan)
    again.load(tmp_path)
    assert train(again, 10 - saved_at) == expected
    assert num_left(again._model) == 2 * NUM_LAYERS
    whole.export(tmp_path / "one")
    again.export(tmp_path / "two")
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(two[name], item) for name, item in one.items())


def test_a_checkpoint_without_its_means_goes_another_way(
    tiny_folder: Path, tmp_path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault of the test above."""
    plan = plan_of(make_plan, tiny_folder)
    whole = TorchBackend(plan)
    train(whole, 3)
    whole.save(tmp_path)
    states = []
    for hooks in (adalora.HOOKS, Hooks(penalty=adalora._penalty, after_step=adalora._after_step)):
        with monkeypatch.context() as patch:
            patch.setattr(adalora, "HOOKS", hooks)
            backend = TorchBackend(plan)
            backend.load(tmp_path)
            train(backend, 1)
        states.append(adalora.HOOKS.state(backend._model, adalora.Config()))
    train(whole, 1)
    wanted = adalora.HOOKS.state(whole._model, adalora.Config())
    assert len(wanted) == NUM_LAYERS * (3 + 3 + 1)
    for found, same in zip(states, (True, False), strict=True):
        assert all(torch.equal(found[name], item) for name, item in wanted.items()) == same


def test_what_is_saved_has_the_ranks_that_are_left(tiny_folder: Path, tmp_path: Path, make_plan: MakePlan) -> None:
    backend = TorchBackend(plan_of(make_plan, tiny_folder))
    losses = train(backend, 10)
    assert losses[-1] < losses[0]
    expected = logits(unpacked(backend))
    backend.export(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(len(item) for name, item in weights.items() if name.endswith("lora_E")) == 2 * NUM_LAYERS
    loaded = PeftModel.from_pretrained(base_model(tiny_folder), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)
    modules = adalora.changes(base_model(tiny_folder), tmp_path).modules
    assert sum(len(change.down_RK) for own in modules.values() for change in own) == 2 * NUM_LAYERS
    for name, (change,) in modules.items():
        theirs = loaded.get_base_model().get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(change.up_NR @ change.down_RK, theirs, rtol=1e-5, atol=1e-6)


def test_while_ranks_fall_all_of_them_are_saved(tiny_folder: Path, tmp_path: Path, make_plan: MakePlan) -> None:
    """Entries that were set to zero once grow again until the last time: PEFT's own saving would drop them."""
    backend = TorchBackend(plan_of(make_plan, tiny_folder))
    train(backend, 3)
    with torch.no_grad():
        for name, item in backend._model.named_parameters():
            if ".lora_E." in name:
                item.add_(0.5)
    backend.export(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"] is None
    loaded = PeftModel.from_pretrained(base_model(tiny_folder), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(unpacked(backend)), rtol=1e-5, atol=1e-5)


def test_more_than_low_rank_is_merged(tiny_folder: Path, tmp_path: Path) -> None:
    from peft import AdaLoraConfig, get_peft_model

    config = AdaLoraConfig(
        target_modules=["v_proj"], modules_to_save=["model.norm"], total_step=10, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base_model(tiny_folder), config)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    modules = adalora.changes(base_model(tiny_folder), tmp_path).modules
    assert {name.rpartition(".")[2] for name in modules} == {"norm", "v_proj"}
    assert all(isinstance(change, Weight) for own in modules.values() for change in own)
    adalora.export(adalora.attach(base_model(tiny_folder), adalora.Config()), tmp_path / "ours")
    plain = adalora.changes(base_model(tiny_folder), tmp_path / "ours").modules
    assert all(isinstance(change, LowRank) for own in plain.values() for change in own)
