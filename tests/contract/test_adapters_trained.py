"""The contract of a tuning method in training: it goes on to the bit, and a step may be cut in any way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sartor import names
from sartor.adapters import family_of, methods, preset_of
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, Steps, segment
from sartor.plan import Plan
from sartor.types import Batch

METHODS = sorted(methods())
sft = names.resolve("objectives", "sft")
#: Methods that draw a route for every forward: how a step is cut into forwards is part of what they compute.
DRAWN = frozenset({"adamix"})


def examples() -> list[list[Segment]]:
    """Twelve short rows that begin alike; what follows the first four tokens is trained."""
    draw = np.random.default_rng(5)
    rows = [[7, 8, 9, *draw.integers(3, 500, 4 + index % 5).tolist()] for index in range(12)]
    return [[segment(f"row {index}", ids, [0.0] * 4 + [1.0] * (len(ids) - 4))] for index, ids in enumerate(rows)]


def steps(micro_tokens: int = 1000) -> Steps:
    return Steps(examples(), batch_size=4, micro_tokens=micro_tokens, seed=3, share=True)


def opened(
    folder: Path, make_plan: Callable[..., Plan], method: str, *, micro_tokens: int = 1000
) -> tuple[TorchBackend, Plan]:
    """The backend of a method, with its own settings, in fp32 on a tiny model; the batches that it looks at first are
    cut to `micro_tokens`."""
    family = family_of(method)
    settings = family.Config(**family.PRESETS[method].settings).model_dump(mode="json")
    quantize = preset_of(method).quantize or "none"
    plan = make_plan(
        folder,
        adapter={"name": method, "settings": settings},
        family=family.__name__.rpartition(".")[2],
        steps=6,
        learning_rate=1e-3,
    )
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"quantize": quantize})})
    wanted = family.HOOKS.num_batches
    first = zip(range(wanted), steps(micro_tokens), strict=False)
    batches = [batch for _, step in first for batch in step][:wanted]
    return TorchBackend(plan, examples=batches), plan


def advance(backend: TorchBackend, plan: Plan, data: Steps, count: int, first: int = 0) -> list[float]:
    """The loss of some steps."""
    losses = []
    for number in range(first, first + count):
        micro: list[Batch] = next(data)
        weight = sum(sft.weight(batch) for batch in micro)
        sums = [backend.forward_backward(batch, sft, sft.Config(), weight) for batch in micro]
        backend.step(plan.adam(number))
        losses.append(sum(part.loss for part in sums) / weight)
    return losses


def exported(backend: TorchBackend, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    backend.export(folder)
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_to_the_bit(method: str, tiny_folder: Path, make_plan: Any, tmp_path: Path) -> None:
    straight, plan = opened(tiny_folder, make_plan, method)
    data = steps()
    advance(straight, plan, data, 3)
    (tmp_path / "checkpoint").mkdir()
    straight.save(tmp_path / "checkpoint")
    wanted = advance(straight, plan, data, 3, first=3)
    resumed, _ = opened(tiny_folder, make_plan, method, micro_tokens=20)  # as after another plan, for less memory
    resumed.load(tmp_path / "checkpoint")
    again = steps()
    again.position = 3
    assert advance(resumed, plan, again, 3, first=3) == wanted
    one, other = exported(straight, tmp_path / "one"), exported(resumed, tmp_path / "other")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", sorted(set(METHODS) - DRAWN))
def test_how_a_step_is_cut_does_not_matter(method: str, tiny_folder: Path, make_plan: Any) -> None:
    losses = []
    for micro_tokens in (1, 1000):
        backend, plan = opened(tiny_folder, make_plan, method)
        losses.append(advance(backend, plan, steps(micro_tokens), 3))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
