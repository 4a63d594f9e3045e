"""On a GPU: the hand-written layers train there as they do on a CPU. Without one, nothing here runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sartor.backends.torch import TorchBackend
from sartor.data.pack import pack, segment
from sartor.objectives import sft
from sartor.plan import Adam, Choice, Plan
from sartor.types import Batch

from .conftest import cosine, wake_adapters
from .test_placement import batch_of, gradients, needs_gpu

MakePlan = Callable[..., Plan]
pytestmark = needs_gpu
BF16 = {"dtype": "bfloat16", "micro_tokens": 256, "max_length": 256}
#: Of the fp32 reference, on a random model: rounding to bf16 leaves about this much at awake adapters.
COSINE = 0.999


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 layers whose query heads share keys, with the vocabulary of SmolLM2."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("llama")
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(made)
    return made


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A backend of the same process that sees no GPU."""

    def opened(plan: Plan) -> TorchBackend:
        with monkeypatch.context() as hidden:
            hidden.setattr(torch.cuda, "is_available", lambda: False)
            return TorchBackend(plan)

    return opened


def trained(backend: TorchBackend, batch: Batch, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        weight = sft.weight(batch)
        losses.append(backend.forward_backward(batch, sft, sft.Config(), weight).loss / weight)
        backend.step(Adam(learning_rate=3e-3))
    return losses


def test_the_hand_written_layers_are_used(folder: Path, make_plan: MakePlan) -> None:
    backend = TorchBackend(make_plan(folder, **BF16))
    assert backend._policy.fused, backend.warnings
    assert backend.warnings == ()
    assert {item.device.type for item in backend._updates.masters.values()} == {"cuda"}


def test_gradients_are_those_of_a_cpu_in_fp32(
    folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, found = batch_of(40, 90, 7), {}
    for name, opened, dtype in (("gpu", TorchBackend, "bfloat16"), ("cpu", on_cpu(monkeypatch), "float32")):
        backend = opened(make_plan(folder, **{**BF16, "dtype": dtype}))
        torch.manual_seed(1)
        wake_adapters(backend)
        loss, slopes = gradients(backend, batch)
        found[name] = loss, {key: value.cpu().float() for key, value in slopes.items()}
    assert found["gpu"][0] == pytest.approx(found["cpu"][0], rel=2e-3)
    assert cosine(found["gpu"][1], found["cpu"][1]) > COSINE


@pytest.mark.parametrize("recompute", ["mlp", "layer"])
def test_what_is_computed_again_changes_no_bit(folder: Path, make_plan: MakePlan, recompute: str) -> None:
    batch = batch_of(40, 90)
    plain, again = (
        trained(TorchBackend(make_plan(folder, **BF16, recompute=policy)), batch, 5) for policy in ("none", recompute)
    )
    assert plain == again


def test_resuming_is_bit_identical(folder: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    batch, first, second = batch_of(40, 90), *(TorchBackend(make_plan(folder, **BF16)) for _ in "ab")
    trained(first, batch, 3)
    first.save(tmp_path)
    second.load(tmp_path)
    assert trained(first, batch, 3) == trained(second, batch, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": Choice(name="full"), "family": "full", "learning_rate": 1e-4},
        {"optimizer": "adamw_8bit"},
        {"optimizer": "paged_adamw_8bit"},
        {"adapter": Choice(name="dora"), "family": "lora"},
    ],
    ids=["full", "8 bit", "paged", "dora"],
)
def test_other_ways_to_train_learn_too(folder: Path, make_plan: MakePlan, changes: dict[str, Any]) -> None:
    if "8bit" in changes.get("optimizer", ""):
        pytest.importorskip("bitsandbytes")
    losses = trained(TorchBackend(make_plan(folder, **BF16, **changes)), batch_of(50, 90), 30)
    assert losses[-1] < 0.9 * losses[0]


def test_a_shared_beginning_is_computed_once_and_changes_no_gradient(folder: Path, make_plan: MakePlan) -> None:
    draw = np.random.default_rng(5)
    beginning, rows = draw.integers(49152, size=60).tolist(), []
    for number in range(5):
        ids = [*beginning, *draw.integers(49152, size=20 + number).tolist()]
        rows.append(segment(f"row {number}", ids, [0.0] * 60 + [1.0] * (len(ids) - 60)))
    (batch,) = pack(rows, micro_tokens=1000)
    backend = TorchBackend(make_plan(folder, **{**BF16, "micro_tokens": 1000}))
    wake_adapters(backend)
    assert backend._shares, backend.warnings
    loss, once = gradients(backend, batch)
    backend._shares = False
    apart_loss, apart = gradients(backend, batch)
    assert loss == pytest.approx(apart_loss, rel=2e-3)
    assert cosine(once, apart) > COSINE


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_base_trains(folder: Path, make_plan: MakePlan, quantize: str) -> None:
    plan = make_plan(folder, **BF16)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"quantize": quantize})})
    backend = TorchBackend(plan)
    assert backend._policy.fused, backend.warnings
    losses = trained(backend, batch_of(50, 90), 30)
    assert losses[-1] < 0.9 * losses[0]
