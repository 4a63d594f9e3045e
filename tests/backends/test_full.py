"""Full tuning in the torch backend against plain Hugging Face: gradients, masters, saving and loading."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.objectives import sft
from sartor.plan import Adam

from .conftest import MakePlan, cosine, our_gradients, relative_error, summed_gradients

FULL = {"name": "full", "settings": {}}


def make_segments() -> list[Segment]:
    """Eight segments of different lengths, trained from the third token on."""
    draw = random.Random(11)
    made = []
    for number in range(8):
        ids = [draw.randrange(49152) for _ in range(9 + 3 * number)]
        weights = (0.0, 0.0, *[1.0] * (len(ids) - 3))
        made.append(Segment(row=f"row {number}", tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=weights))
    return made


def plain_gradients(folder: Path, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
    """One example at a time through the stock model in fp32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()
    return summed_gradients(model, segments)


def test_gradients_of_all_weights_equal_plain_ones_in_fp32(tiny_folder: Path, make_plan: MakePlan) -> None:
    segments = make_segments()
    backend = TorchBackend(make_plan(tiny_folder, adapter=FULL, family="full"))
    assert backend.warnings == ()
    found = our_gradients(backend, segments, micro_tokens=64)
    assert relative_error(found, plain_gradients(tiny_folder, segments)) < 1e-5


def test_in_bf16_masters_gather_what_single_updates_would_lose(tiny_folder: Path, make_plan: MakePlan) -> None:
    segments = make_segments()
    backend = TorchBackend(make_plan(tiny_folder, adapter=FULL, family="full", dtype="bfloat16"))
    found = our_gradients(backend, segments, micro_tokens=64)
    assert all(item.dtype == torch.float32 for item in backend._updates.masters.values())
    wanted = plain_gradients(tiny_folder, segments)
    assert cosine(found, wanted) > 0.99
    before = {name: item.detach().clone() for name, item in backend._updates.masters.items()}
    for _ in range(8):  # each is far below what bf16 can add to a weight near 0.1
        for batch in pack(segments, micro_tokens=64):
            backend.forward_backward(batch, sft, sft.Config(), 50.0)
        backend.step(Adam(learning_rate=1e-6))
    moved = [float((item.detach() - before[name]).abs().max()) for name, item in backend._updates.masters.items()]
    assert min(moved) > 0
    working = dict(backend._model.named_parameters())
    for name, master in backend._updates.masters.items():
        assert torch.equal(working[name], master.detach().to(torch.bfloat16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saving_and_loading_changes_nothing(tiny_folder: Path, tmp_path: Path, make_plan: MakePlan, dtype: str) -> None:
    segments = make_segments()

    def advance(backend: TorchBackend, steps: int) -> torch.Tensor:
        for _ in range(steps):
            for batch in pack(segments, micro_tokens=64):
                backend.forward_backward(batch, sft, sft.Config(), 50.0)
            backend.step(Adam(learning_rate=1e-3))
        return torch.cat([item.detach().flatten() for item in backend._updates.masters.values()])

    plan = make_plan(tiny_folder, adapter=FULL, family="full", dtype=dtype)
    straight = TorchBackend(plan)
    advance(straight, 2)
    straight.save(tmp_path)
    wanted = advance(straight, 3)
    resumed = TorchBackend(plan)
    resumed.load(tmp_path)
    assert torch.equal(advance(resumed, 3), wanted)
