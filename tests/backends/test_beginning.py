"""Virtual tokens stand before every segment: the plain reference is PEFT's own forward, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sartor.adapters import family_of, preset_of
from sartor.adapters.changes import Prefix, Prompt
from sartor.backends import beginning
from sartor.backends import torch as backends_torch
from sartor.backends.ranks import cut
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.objectives import sft
from sartor.ops import attention
from sartor.plan import Adam, Choice, Plan
from sartor.types import Batch

MakePlan = Callable[..., Plan]
#: Each with few or with many virtual tokens: those of 16 and more are shared by the segments of a micro-batch.
METHODS = {
    "prompt_tuning": {"tokens": 20},
    "ipt": {"tokens": 20, "dimensions": 9},
    "p_tuning": {"tokens": 3},
    "prefix_tuning": {"tokens": 7, "width": 16},
    "p_tuning_v2": {"tokens": 20},
    "warp": {"tokens": 4, "verbalisers": 5},
}
LENGTHS = (5, 21, 9, 13)
WITHIN = 1e-5


def batch_of(*lengths: int) -> Batch:
    """Segments that begin alike, of which two share more than the virtual tokens."""
    draw = np.random.default_rng(3)
    shared = tuple(int(item) for item in draw.integers(49152, size=18))
    rows = []
    for number, length in enumerate(lengths):
        own = tuple(int(item) for item in draw.integers(49152, size=length + 1))
        ids = (shared + own)[: length + 1] if number % 2 else own
        rows.append(Segment(f"row {number}", ids[:-1], ids[1:], (0.0, *[1.0 + 0.5 * number] * (length - 1))))
    (batch,) = pack(rows, micro_tokens=10_000)
    return batch


def config_of(method: str) -> Any:
    return family_of(method).Config(**{**preset_of(method).settings, **METHODS[method]})


def backend_of(make_plan: MakePlan, folder: Path, method: str, **changes: Any) -> TorchBackend:
    plan = make_plan(folder, adapter=Choice(name=method, settings=config_of(method).model_dump()), **changes)
    return TorchBackend(plan, examples=[batch_of(*LENGTHS)])


def gradients(backend: TorchBackend, *batches: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    weight = sum(sft.weight(batch) for batch in batches)
    loss = sum(backend.forward_backward(batch, sft, sft.Config(), weight).loss for batch in batches)
    found = {name: item.grad.clone() for name, item in backend._updates.masters.items() if item.grad is not None}
    for item in backend._updates.masters.values():
        item.grad = None
    return loss, found


def by_peft(backend: TorchBackend, folder: Path, method: str, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the same weights in PEFT's own model, on transformers' own attention, row by row."""
    torch.manual_seed(7)  # as the plan's: the decoder of `ipt` is drawn
    model = family_of(method).attach(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config_of(method)
    )
    family_of(method).HOOKS.calibrate(model, config_of(method), [batch_of(*LENGTHS)])
    weights = dict(model.named_parameters())
    for name, item in backend._updates.masters.items():
        weights[name].data.copy_(item.detach())
    total = torch.zeros(())
    for start, end in pairwise(batch.offsets_S1.tolist()):
        tokens, targets = (torch.from_numpy(part[start:end]) for part in (batch.tokens_T, batch.targets_T))
        logits = model(input_ids=tokens[None]).logits[0, -len(tokens) :]
        logprobs = torch.log_softmax(logits.double(), dim=-1).gather(1, targets[:, None])[:, 0]
        total = total - (logprobs * torch.from_numpy(batch.weights_T[start:end])).sum()
    (total / sft.weight(batch)).backward()
    return float(total.detach()), {name: weights[name].grad for name in backend._updates.masters}


def difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest over the weights, as a share of their gradient."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


@pytest.fixture(params=["fused", "packed", "one by one"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The three ways through a model; hand-written layers know no prefix, so for one the first is the second."""
    if request.param != "fused":
        monkeypatch.setattr(backends_torch, "_no_kernels", lambda *_: "asked for")
    if request.param == "one by one":
        monkeypatch.setattr(attention, "find_leak", lambda *_: "asked for")
    yield request.param


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_one_example_at_a_time(
    method: str, path: str, tiny_folder: Path, make_plan: MakePlan
) -> None:
    backend, batch = backend_of(make_plan, tiny_folder, method), batch_of(*LENGTHS)
    is_prefix = isinstance(backend._policy.beginning(), Prefix)
    assert (backend._policy.fused, backend._policy.packed) == (path == "fused" and not is_prefix, path != "one by one")
    loss, found = gradients(backend, batch)
    wanted_loss, wanted = by_peft(backend, tiny_folder, method, batch)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    assert difference(found, wanted) < WITHIN


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_give_the_same(method: str, tiny_folder: Path, make_plan: MakePlan) -> None:
    backend, batch = backend_of(make_plan, tiny_folder, method), batch_of(*LENGTHS)
    loss, found = gradients(backend, batch)
    for parts in (2, 4):
        split_loss, split = gradients(backend, *cut(batch, parts))
        assert split_loss == pytest.approx(loss, rel=1e-6)
        assert difference(split, found) < WITHIN


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_v2"])
def test_layers_that_are_computed_again_give_the_same(
    method: str, path: str, tiny_folder: Path, make_plan: MakePlan
) -> None:
    batch = batch_of(*LENGTHS)
    again, kept = (backend_of(make_plan, tiny_folder, method, recompute=what) for what in ("layer", "none"))
    assert difference(gradients(again, batch)[1], gradients(kept, batch)[1]) < WITHIN


def leave_positions(batch: Batch, num_virtual: int) -> Batch:
    """The fault that PEFT's own forward makes with given positions: the text stands where it would without tokens."""
    made = beginning.inserted(batch, num_virtual)
    positions_T = np.where(made.tokens_T < 0, made.positions_T, made.positions_T - num_virtual)
    return replace(made, positions_T=positions_T)


def only_the_first(batch: Batch, num_virtual: int) -> Batch:
    """The other fault: tokens before the row, not before each segment."""
    made = beginning.inserted(batch, num_virtual)
    first = np.arange(len(made.tokens_T)) < made.offsets_S1[1]
    return replace(made, tokens_T=np.where((made.tokens_T < 0) & ~first, 0, made.tokens_T))


@pytest.mark.parametrize("fault", [leave_positions, only_the_first])
def test_a_planted_fault_is_found(
    fault: Any, path: str, tiny_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, batch = backend_of(make_plan, tiny_folder, "prompt_tuning"), batch_of(*LENGTHS)
    _, wanted = by_peft(backend, tiny_folder, "prompt_tuning", batch)
    wrong = fault(batch, 20)
    monkeypatch.setattr(beginning, "inserted", lambda *_: wrong)
    assert difference(gradients(backend, batch)[1], wanted) > 100 * WITHIN


def test_a_prefix_that_does_not_move_the_text_is_found(
    tiny_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, batch = backend_of(make_plan, tiny_folder, "p_tuning_v2"), batch_of(*LENGTHS)
    _, wanted = by_peft(backend, tiny_folder, "p_tuning_v2", batch)
    monkeypatch.setattr(beginning, "moved", lambda batch, num_virtual: batch)
    assert difference(gradients(backend, batch)[1], wanted) > 100 * WITHIN


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_bit_by_bit(method: str, tiny_folder: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    adam = Adam(learning_rate=1e-2, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, clip=1.0)
    batch = batch_of(*LENGTHS)

    def step(backend: TorchBackend) -> None:
        backend.forward_backward(batch, sft, sft.Config(), sft.weight(batch))
        backend.step(adam)

    first = backend_of(make_plan, tiny_folder, method)
    before = {name: item.detach().clone() for name, item in first._updates.masters.items()}
    step(first)
    first.save(tmp_path)
    step(first)
    second = backend_of(make_plan, tiny_folder, method)
    second.load(tmp_path)
    step(second)
    for name, item in first._updates.masters.items():
        assert torch.equal(item, second._updates.masters[name])
        assert not torch.equal(item, before[name])


# ---- the parts ------------------------------------------------------------------------------------------------------


def test_tokens_are_inserted_before_each_segment() -> None:
    batch = batch_of(3, 2)
    made = beginning.inserted(batch, 2)
    assert made.tokens_T.tolist() == [-1, -2, *batch.tokens_T[:3].tolist(), -1, -2, *batch.tokens_T[3:].tolist()]
    assert made.positions_T.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert made.weights_T.tolist() == [0, 0, *batch.weights_T[:3].tolist(), 0, 0, *batch.weights_T[3:].tolist()]
    assert made.offsets_S1.tolist() == [0, 5, 9]
    assert made.rows == batch.rows
    for name in ("tokens_T", "positions_T", "targets_T", "weights_T", "offsets_S1"):
        assert getattr(made, name).dtype == getattr(batch, name).dtype


def test_an_empty_segment_stays_empty() -> None:
    batch = batch_of(3, 2)
    ends = np.append(batch.offsets_S1, [5, 5]).astype(np.int32)
    made = beginning.inserted(replace(batch, offsets_S1=ends, rows=(*batch.rows, "", "")), 2)
    assert made.offsets_S1.tolist() == [0, 5, 9, 9, 9]
    assert len(made.tokens_T) == 9


def test_a_prefix_only_moves_the_text() -> None:
    batch = batch_of(3, 2)
    assert beginning.moved(batch, 2).positions_T.tolist() == [2, 3, 4, 2, 3]
    assert np.array_equal(beginning.moved(batch, 2).tokens_T, batch.tokens_T)


def test_virtual_tokens_have_embeddings_of_their_own() -> None:
    text = torch.nn.Embedding(10, 4)
    prompt = Prompt(torch.randn(2, 4, requires_grad=True))
    found = beginning.embed(text, torch.tensor([-1, 3, -2, -1]), prompt.embeddings_PD)
    assert torch.equal(found, torch.stack([prompt.embeddings_PD[0], text.weight[3], *prompt.embeddings_PD[[1, 0]]]))
    found.sum().backward()
    assert prompt.embeddings_PD.grad.sum(dim=1).tolist() == [8.0, 4.0]
    assert text.weight.grad[0].tolist() == [0.0] * 4
