"""Filled and compiled micro-batches give the numbers of plain ones; what only a GPU does is left alone on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sartor.backends import placement
from sartor.backends.ranks import Place
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.objectives import sft
from sartor.ops import attention, varlen
from sartor.plan import Adam, Plan
from sartor.types import Batch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
MakePlan = Callable[..., Plan]


def batch_of(*lengths: int) -> Batch:
    draw = np.random.default_rng(3)
    rows = []
    for number, length in enumerate(lengths):
        ids = tuple(int(item) for item in draw.integers(49152, size=length + 1))
        rows.append(Segment(f"row {number}", ids[:-1], ids[1:], (0.0, *[1.0] * (length - 1))))
    (batch,) = pack(rows, micro_tokens=10_000)
    return batch


def gradients(backend: TorchBackend, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    sums = backend.forward_backward(batch, sft, sft.Config(), sft.weight(batch))
    found = {name: item.grad.clone() for name, item in backend._updates.masters.items() if item.grad is not None}
    backend._updates.clear()
    return sums.loss, found


def test_a_filled_batch_keeps_what_is_in_it() -> None:
    batch = batch_of(5, 9)
    filled = placement.filled(batch, 20)
    assert (filled.num_tokens, filled.num_supervised, filled.rows) == (20, batch.num_supervised, (*batch.rows, ""))
    assert filled.offsets_S1.tolist() == [0, 9, 14, 20]
    assert filled.offsets_S1.dtype == batch.offsets_S1.dtype
    assert filled.positions_T[14:].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(filled.tokens_T[:14], batch.tokens_T)
    assert (filled.weights_T[14:] == 0).all()
    assert placement.filled(batch, 20, segment_step=64).offsets_S1.tolist() == [0, 9, 14] + [20] * 61
    assert placement.filled(batch, 14) is batch
    assert placement.filled(batch, 10) is batch


def test_what_fills_a_batch_is_short_or_no_longer_than_its_own_segments() -> None:
    """A sliding window may be as short as the longest row; and one token is all that an idle rank has."""
    batch, tail = batch_of(5, 9), placement.SHORT_TAIL
    filled = placement.filled(batch, 14 + 2 * tail + 3, segment_step=8)
    assert filled.offsets_S1.tolist() == [0, 9, 14, 14 + tail, 14 + 2 * tail, *[17 + 2 * tail] * 3]
    assert filled.positions_T[14:].tolist() == [*range(tail), *range(tail), 0, 1, 2]
    assert filled.rows == (*batch.rows, *[""] * 5)
    long = placement.filled(batch_of(2 * tail), 5 * tail)
    assert long.offsets_S1.tolist() == [0, 2 * tail, 4 * tail, 5 * tail]


def test_a_filled_batch_has_the_loss_and_the_gradients_of_the_plain_one(tiny_folder: Path, make_plan: MakePlan) -> None:
    backend, batch = TorchBackend(make_plan(tiny_folder)), batch_of(5, 9, 12)
    loss, plain = gradients(backend, batch)
    filled_loss, filled = gradients(backend, placement.filled(batch, 64))
    assert filled_loss == pytest.approx(loss, rel=1e-6)
    assert max(float((filled[name] - plain[name]).abs().max()) for name in plain) < 1e-6


def test_tokens_that_fill_a_batch_up_are_not_counted(
    tiny_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, batch = TorchBackend(make_plan(tiny_folder)), batch_of(5, 9)
    backend._num_tokens = 64  # as on a GPU
    monkeypatch.setattr(placement, "SEGMENT_STEP", 1)  # the CPU's attention knows no empty segments
    sums = backend.forward_backward(batch, sft, sft.Config(), 1.0)
    assert (sums.num_tokens, sums.num_supervised) == (14, batch.num_supervised)


@pytest.mark.slow
def test_compiled_layers_give_the_same(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's own tracing; its code generator needs minutes here, and is torch's to test."""
    from transformers import AutoModelForCausalLM

    monkeypatch.delenv("TORCHDYNAMO_DISABLE")  # see tests/conftest.py
    monkeypatch.setattr("torch._dynamo.config.disable", False)

    attention.register()
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation=attention.NAME)
    policy, batch = placement.Policy(model, torch.float32, torch.float32), batch_of(5, 9, 12)
    inputs = (torch.from_numpy(part) for part in (batch.tokens_T, batch.positions_T, batch.offsets_S1))
    tokens_T, positions_T, offsets_S1 = inputs

    def computed() -> tuple[torch.Tensor, torch.Tensor]:
        hidden = policy.hidden(tokens_T, positions_T, offsets_S1, 12)
        (slope,) = torch.autograd.grad(hidden.square().sum(), model.model.layers[0].mlp.up_proj.weight)
        return hidden.detach(), slope

    plain = computed()
    assert [type(layer).__name__ for layer in placement.layers_of(model)] == ["LlamaDecoderLayer"] * 2
    placement.compile_layers(model, backend="eager")
    frames = torch._dynamo.utils.counters["frames"]
    frames.clear()
    for left, right in zip(computed(), plain, strict=True):
        assert float((left - right).norm() / right.norm()) < 1e-5
    assert frames["ok"] >= 1


def test_a_cpu_is_left_as_it_is() -> None:
    cpu = torch.device("cpu")
    assert placement.use_gpu_kernels(torch.nn.Linear(1, 1), cpu) is False
    placement.register_attention(cpu)
    from transformers import AttentionInterface

    assert AttentionInterface()[attention.NAME] is attention.flat_attention
    state = placement.random_state(cpu)
    assert set(state) == {"random"}
    first = torch.rand(3)
    second = placement.random_state(cpu)
    then = torch.rand(3)
    of_ranks = {"random": torch.stack([state["random"], second["random"]])}

    def drawn_by(rank: int) -> list[float]:
        placement.set_random_state(of_ranks, rank)
        return list(torch.rand(3).tolist())

    drawn = [drawn_by(rank) for rank in range(4)]  # four ranks go on where two have saved
    assert drawn[:2] == [first.tolist(), then.tolist()]
    assert len({tuple(each) for each in drawn}) == 4
    assert drawn == [drawn_by(rank) for rank in range(4)]
    with placement.made_on(cpu):
        assert torch.empty(1).device == cpu


@pytest.mark.parametrize(
    ("family", "wrapped", "wanted"), [("llama", False, True), ("unheard_of", False, False), ("llama", True, False)]
)
def test_liger_is_used_where_it_knows_the_model(
    monkeypatch: pytest.MonkeyPatch, family: str, wrapped: bool, wanted: bool
) -> None:
    """A module in Liger's place: it does nothing, and says nothing, for a type that it does not know.

    A norm that a tuning method has wrapped would lose its adapter to Liger's forward.
    """
    asked: list[str] = []
    names = ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
    for name in names:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    vars(sys.modules[names[-1]]).update(
        MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None},
        _apply_liger_kernel_to_instance=lambda model, **kwargs: asked.append(model.config.model_type),
    )
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(4)
    parts = {"layers.0.mlp.up_proj": torch.nn.Linear(2, 2), "norm": torch.nn.Sequential(norm) if wrapped else norm}
    model = SimpleNamespace(config=SimpleNamespace(model_type=family), named_modules=parts.items)
    assert placement.use_gpu_kernels(model, torch.device("cuda")) is wanted
    assert asked == ([family] if wanted else [])


def test_whole_tensors_make_a_model_that_saves(tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_folder)
    twin = placement.on_one_rank(model, dict(model.state_dict()))
    found, wanted = twin.state_dict(), model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@needs_gpu
def test_a_rank_gets_its_gpu() -> None:
    assert placement.device_of(Place(local_rank=0)) == torch.device("cuda", 0)
    placement.register_attention(torch.device("cuda", 0))
    from transformers import AttentionInterface

    assert AttentionInterface()[attention.NAME] is varlen.flat_attention


@needs_gpu
def test_a_gpu_learns_a_batch(smollm2_folder: Path, make_plan: MakePlan) -> None:
    """Thirty steps on one batch in bf16, with whatever kernels are installed."""
    backend, batch = TorchBackend(make_plan(smollm2_folder, dtype="bfloat16", micro_tokens=256)), batch_of(50, 90)
    losses = []
    for _ in range(30):
        weight = sft.weight(batch)
        losses.append(backend.forward_backward(batch, sft, sft.Config(), weight).loss / weight)
        backend.step(Adam(learning_rate=1e-3))
    assert losses[-1] < 0.7 * losses[0]
