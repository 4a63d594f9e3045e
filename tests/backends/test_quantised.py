"""Training on packed weights is training on the numbers that they stand for: every method, fused and plain, resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sartor.adapters import family_of, methods, preset_of
from sartor.backends.torch import TorchBackend
from sartor.base import load_base
from sartor.data.pack import Segment, pack
from sartor.objectives import sft
from sartor.ops import attention, forest_attention, native, pointwise, quantised
from sartor.plan import Adam, Choice, Plan

MakePlan = Callable[..., Plan]
IDS = torch.tensor([[1, 5, 9, 60, 33, 7, 7, 101]])
#: Those that can be trained on a quantised base; the planner refuses the others, with the reason that they give. LoftQ
#: begins at what four bits lost, which these numbers do not know.
METHODS = [
    method
    for method in sorted(methods())
    if family_of(method).TRAINS == "adapter" and not preset_of(method).moves_base and method != "loftq"
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Llama whose vocabulary is no larger than a layer: its head is one product, as the plain one is."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        weight.data.mul_(4.0)
    path = tmp_path_factory.mktemp("base")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def numbers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The numbers that its weights stand for in four bits, as a base of their own."""
    path = tmp_path_factory.mktemp("numbers")
    load_base(folder, torch.float32, "nf4", attention="eager").save_pretrained(path)
    return path


@pytest.fixture(params=["fused", "plain"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """With our layers and kernels, and with transformers' own."""
    kernels = (pointwise.pointwise, forest_attention.attention, quantised._kernels, native.load, native.made)
    if request.param == "plain":
        monkeypatch.setenv(native.OFF, "0")
        for cached in kernels:
            cached.cache_clear()
    yield request.param == "fused"
    if os.environ.get(native.OFF) == "0":
        for cached in kernels:
            cached.cache_clear()


def planned(make_plan: MakePlan, folder: Path, quantize: str = "nf4", **changes: Any) -> Plan:
    plan = make_plan(folder, **changes)
    return plan.model_copy(update={"model": plan.model.model_copy(update={"quantize": quantize})})


def segments() -> list[Segment]:
    return [
        Segment(f"row {row}", tuple(range(row, 20 + row)), tuple(range(row + 1, 21 + row)), (0.0,) * 3 + (1.0,) * 17)
        for row in range(5)
    ]


def gradients(backend: TorchBackend) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in backend._updates.masters.values():
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.05)
    backend._refresh()
    for batch in pack(segments(), micro_tokens=64):
        backend.forward_backward(batch, sft, sft.Config(), 85.0)
    return {name: weight.grad for name, weight in backend._updates.masters.items() if weight.grad is not None}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_gradients_are_those_of_lora_on_the_same_numbers(
    folder: Path, numbers: Path, tmp_path: Path, make_plan: MakePlan, fused: bool, kind: str
) -> None:
    if kind != "nf4":
        numbers = tmp_path / "numbers"
        load_base(folder, torch.float32, kind, attention="eager").save_pretrained(numbers)
    packed = TorchBackend(planned(make_plan, folder, kind))
    plain = TorchBackend(planned(make_plan, numbers, "none"))
    assert packed._policy.fused == plain._policy.fused == fused
    found, wanted = gradients(packed), gradients(plain)
    assert found.keys() == wanted.keys()
    assert len(found) == 2 * 14
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_what_it_gives_on_the_same_numbers(folder: Path, numbers: Path, method: str) -> None:
    """To the last bits: some methods compute with the weight itself, in another order than its layer does."""
    family = family_of(method)
    results = []
    for path, kind in ((folder, "nf4"), (numbers, "none")):
        model = load_base(path, torch.float32, kind, attention="eager", packed=True)
        model.requires_grad_(False)
        torch.manual_seed(2)
        tuned = family.attach(model, family.Config(**family.PRESETS[method].settings))
        torch.manual_seed(3)
        trained = {name: weight for name, weight in tuned.named_parameters() if weight.requires_grad}
        for weight in trained.values():
            weight.data.add_(torch.randn_like(weight) * 0.02)
        tuned.eval()
        logits = tuned(input_ids=IDS).logits
        slopes = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad(logits, list(trained.values()), slopes, allow_unused=True)
        results.append([logits.detach(), *(item for item in found if item is not None)])
    assert len(results[0]) > 1
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()


def test_a_resumed_run_is_the_same_run(folder: Path, tmp_path: Path, make_plan: MakePlan) -> None:
    plan = planned(make_plan, folder)

    def steps(backend: TorchBackend, count: int) -> TorchBackend:
        for _ in range(count):
            for batch in pack(segments(), micro_tokens=64):
                backend.forward_backward(batch, sft, sft.Config(), 85.0)
            backend.step(Adam(learning_rate=1e-2))
        return backend

    whole, first = steps(TorchBackend(plan), 4), steps(TorchBackend(plan), 2)
    first.save(tmp_path)
    second = TorchBackend(plan)
    second.load(tmp_path)
    steps(second, 2)
    for name, weight in whole._updates.masters.items():
        assert torch.equal(weight, second._updates.masters[name])


def test_frozen_layers_are_kept_below_the_trained_ones(folder: Path, numbers: Path, make_plan: MakePlan) -> None:
    adapter = Choice(name="lora", settings={"r": 4, "top_layers": 1})
    packed = TorchBackend(planned(make_plan, folder, adapter=adapter))
    plain = TorchBackend(planned(make_plan, numbers, "none", adapter=adapter))
    assert packed._frozen is not None
    found, wanted = gradients(packed), gradients(plain)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_one_buffer_serves_all_layers_forward_and_backward(folder: Path, make_plan: MakePlan) -> None:
    backend = TorchBackend(planned(make_plan, folder))
    gradients(backend)
    head = backend._policy.model.get_output_embeddings()
    gate_and_up = 2 * 128 * (64 + 2 * 4) * 4
    assert head.room.num_bytes == gate_and_up
    backend.step(Adam(learning_rate=1e-2))
    gradients(backend)
    assert head.room.num_bytes == gate_and_up


def test_bf16_products(folder: Path, make_plan: MakePlan) -> None:
    backend = TorchBackend(planned(make_plan, folder, dtype="bfloat16"))
    assert not backend.warnings
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(backend).values())


def test_the_export_is_plain_lora(folder: Path, numbers: Path, tmp_path: Path, make_plan: MakePlan) -> None:
    from peft import PeftModel

    attention.register()
    backend = TorchBackend(planned(make_plan, folder))
    gradients(backend)
    backend.export(tmp_path)
    base = LlamaForCausalLM.from_pretrained(numbers, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    engine = load_base(folder, torch.float32, "nf4", attention="eager")
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(engine, tmp_path).eval()(input_ids=IDS).logits
        found = loaded(input_ids=IDS).logits
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()
