"""The hand-written layers in the torch backend: kernels on and off, shared beginnings, trajectories to the bit."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor.backends.placement import filled
from sartor.backends.ranks import Alone, Place, idle
from sartor.backends.torch import TorchBackend
from sartor.data.fold import fold
from sartor.data.pack import Segment, pack
from sartor.errors import ModelError, RecipeError
from sartor.objectives import sft
from sartor.ops import attention, forest_attention, native
from sartor.ops.forest_attention import separate
from sartor.plan import Adam, Plan

from .conftest import (
    MakePlan,
    cosine,
    distance,
    make_segments,
    our_gradients,
    plain_gradients,
    relative_error,
    wake_adapters,
)


def test_a_leak_in_the_hand_written_layers_stops_the_run(
    tiny_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted behind the checks that compare layers one by one, so that only the check of packing can see it."""
    monkeypatch.setattr(attention, "find_leak", lambda forward, vocab_size: "a change moved another segment")
    with pytest.raises(ModelError, match="hand-written layers let segments see each other: a change moved"):
        TorchBackend(make_plan(tiny_folder))


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with heads of 32, for which there are kernels, and a small vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(6)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    folder = tmp_path_factory.mktemp("wide")
    model.save_pretrained(folder)
    return folder


@contextmanager
def switched_off() -> Iterator[None]:
    """transformers' own layers, as on a machine without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.OFF, "0")
        yield


def like_a_prompt(prompt: int = 40) -> list[Segment]:
    """Rows that begin with the same untrained tokens, and one that does not."""
    shared = make_segments(1, longest=prompt, vocab=512)[0].tokens * 8
    rows = []
    for item in make_segments(6, vocab=512):
        tokens = (*shared[:prompt], *item.tokens)
        weights = (*[0.0] * prompt, *item.weights)
        rows.append(Segment(item.row, tokens, (*tokens[1:], item.targets[-1]), weights))
    return [*rows, *make_segments(7, vocab=512)[6:]]


def losses_of(
    backend: TorchBackend, steps: int, segments: Sequence[Segment] = (), *, learning_rate: float = 2e-3
) -> list[float]:
    losses = []
    for _ in range(steps):
        batches = pack(segments or make_segments(8, vocab=512), micro_tokens=128 if segments else 64)
        weight = sum(sft.weight(batch) for batch in batches)
        sums = [backend.forward_backward(batch, sft, sft.Config(), weight) for batch in batches]
        backend.step(Adam(learning_rate=learning_rate, clip=1.0))
        losses.append(sum(part.loss for part in sums) / weight)
    return losses


def weights_of(backend: TorchBackend) -> torch.Tensor:
    return torch.cat([item.detach().flatten() for item in backend._updates.masters.values()])


def test_kernels_are_used_and_give_plain_gradients(wide_folder: Path, make_plan: MakePlan) -> None:
    backend = TorchBackend(make_plan(wide_folder))
    assert backend.warnings == ()
    assert backend._policy.fused
    wake_adapters(backend)
    segments = make_segments(8, vocab=512)
    found = our_gradients(backend, segments, micro_tokens=64)
    assert relative_error(found, plain_gradients(backend, wide_folder, segments)) < 1e-5


def test_a_shared_beginning_is_computed_once_and_changes_nothing(wide_folder: Path, make_plan: MakePlan) -> None:
    segments = like_a_prompt()
    (batch,) = pack(segments, micro_tokens=10_000)
    assert fold(batch).num_tokens < batch.num_tokens - 5 * 35
    losses, gradients = [], []
    for size in (0, 1):
        backend = TorchBackend(make_plan(wide_folder))
        wake_adapters(backend)
        gradients.append(our_gradients(backend, segments, micro_tokens=10_000, max_segments=size))
        batches = pack(segments, micro_tokens=10_000, max_segments=size)
        sums = [backend.forward_backward(item, sft, sft.Config(), 1.0, grad=False) for item in batches]
        losses.append(sum(part.loss for part in sums))
        assert sum(part.num_tokens for part in sums) == batch.num_tokens, "the batch counts them as before"
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert distance(*gradients) < 1e-6
    assert relative_error(gradients[0], plain_gradients(backend, wide_folder, segments)) < 1e-5


def test_sharing_that_is_wrong_is_found_and_switched_off(
    wide_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: no node sees those above it."""
    right = forest_attention.Native.forward

    def blind(self: Any, heads: Any, forest: Any, *rest: Any) -> None:
        right(self, heads, separate(forest.offsets_P1), *rest)

    monkeypatch.setattr(forest_attention.Native, "forward", blind)
    backend = TorchBackend(make_plan(wide_folder))
    assert backend._policy.fused
    assert [warning for warning in backend.warnings if "equal beginnings are computed again" in warning]
    wake_adapters(backend)
    segments = like_a_prompt()
    found = our_gradients(backend, segments, micro_tokens=10_000)
    assert relative_error(found, plain_gradients(backend, wide_folder, segments)) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sharing_on_a_real_model_is_right(smollm2_folder: Path, make_plan: MakePlan, dtype: str) -> None:
    backend = TorchBackend(make_plan(smollm2_folder, dtype=dtype))
    assert backend.warnings == ()
    assert backend._shares


class BesideOne(Alone):
    """Rank 0, and a rank 1 that has no compiler."""

    place = Place(rank=0, size=2)

    def join(self, words: Any) -> list[str]:
        return [*words, "rank 1: no compiler"]


def test_where_one_rank_has_no_kernels_none_uses_them(wide_folder: Path, make_plan: MakePlan) -> None:
    backend = TorchBackend(make_plan(wide_folder), BesideOne())
    assert not backend._policy.fused
    assert any("off: rank 1: no compiler" in warning for warning in backend.warnings)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_transformers_layers_are_computed_again_too(wide_folder: Path, make_plan: MakePlan, method: str) -> None:
    settings = {"r": 4} if method == "lora" else {}
    results = []
    with switched_off():
        for recompute in ("none", "mlp"):
            adapter = {"name": method, "settings": settings}
            backend = TorchBackend(make_plan(wide_folder, recompute=recompute, adapter=adapter, family=method))
            wake_adapters(backend)
            said = any("recompute: mlp is done by transformers" in warning for warning in backend.warnings)
            layers = backend._policy.model.model.layers
            assert [layer.gradient_checkpointing for layer in layers] == [recompute == "mlp"] * 3 == [said] * 3
            results.append(our_gradients(backend, make_segments(8, vocab=512), micro_tokens=64))
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_shared_beginning_that_is_trained_counts_as_often_as_it_occurs(
    wide_folder: Path, make_plan: MakePlan
) -> None:
    """Supervised positions that share a place share a target; signed and repeated weights add up there."""
    one = make_segments(1, longest=40, vocab=512)[0]
    weights = tuple(float(place % 3) - 1 for place in range(len(one.tokens)))
    copies = [Segment(f"row {n}", one.tokens, one.targets, tuple(w * n for w in weights)) for n in (1, 2)]
    backend = TorchBackend(make_plan(wide_folder))
    wake_adapters(backend)
    results = []
    for items in (copies, [Segment("row 3", one.tokens, one.targets, tuple(w * 3 for w in weights))]):
        (batch,) = pack(items, micro_tokens=10_000)
        loss = backend.forward_backward(batch, sft, sft.Config(), 10.0).loss
        results.append((loss, {name: item.grad.clone() for name, item in backend._updates.masters.items()}))
        backend._updates.clear()
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5), "a sum of signed parts"
    assert distance(results[0][1], results[1][1]) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_that_stands_for_nothing_adds_nothing(wide_folder: Path, make_plan: MakePlan, dtype: str) -> None:
    backend = TorchBackend(make_plan(wide_folder, dtype=dtype))
    wake_adapters(backend)
    sums = backend.forward_backward(idle(), sft, sft.Config(), 10.0)
    assert (sums.loss, sums.num_tokens, sums.num_supervised) == (0.0, 0, 0)
    assert not any(bool(item.grad.any()) for item in backend._updates.masters.values() if item.grad is not None)
    backend._updates.clear()
    (batch,) = pack(make_segments(8, vocab=512), micro_tokens=10_000)
    norms = []
    for batches in ((batch,), (batch, idle())):
        for item in batches:
            backend.forward_backward(item, sft, sft.Config(), 10.0)
        norms.append(backend.step(Adam(learning_rate=0.0)))
    assert norms[0] == norms[1]


def tuned(method: str, **settings: Any) -> dict[str, Any]:
    family = "full" if method in ("full", "top_layers") else "lora"
    return {"adapter": {"name": method, "settings": settings}, "family": family}


def rate_of(plan: Plan) -> float:
    """Whole models learn at a tenth of it: Adam's first steps are as large for the weakest gradient as for the
    strongest, so at the rate of an adapter the last bits of a sum decide where a weight goes."""
    return 2e-3 if plan.family == "lora" else 2e-4


#: What differs from the plain LoRA run: its plan, and how the base is held.
TRAJECTORIES: dict[str, tuple[dict[str, Any], str]] = {
    "lora": ({}, "none"),
    "full": (tuned("full"), "none"),
    "frozen layers kept": (tuned("lora", r=4, top_layers=1), "none"),
    "computed again": ({"recompute": "layer"}, "none"),
    "tiles of logits": ({"tile": 16}, "none"),
    "a base in four bits": ({}, "nf4"),
}


@pytest.mark.parametrize(
    ("path", "shared"),
    [*((path, False) for path in TRAJECTORIES), *((path, True) for path in ("lora", "full", "frozen layers kept"))],
)
def test_twenty_steps_are_the_same_with_the_kernels_and_without(
    wide_folder: Path, make_plan: MakePlan, path: str, shared: bool
) -> None:
    changes, quantize = TRAJECTORIES[path]
    plan = make_plan(wide_folder, **changes)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"quantize": quantize})})
    rows, rate = like_a_prompt() if shared else [], rate_of(plan)
    ours = TorchBackend(plan)
    assert ours._policy.fused and ours._shares
    found = losses_of(ours, 20, rows, learning_rate=rate)
    with switched_off():
        plain = TorchBackend(plan)
        assert any("SARTOR_NATIVE=0" in warning for warning in plain.warnings)
        assert not plain._policy.fused and not plain._shares
        wanted = losses_of(plain, 20, rows, learning_rate=rate)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found[-1] < 0.9 * found[0]
    assert float((weights_of(ours) - weights_of(plain)).norm() / weights_of(plain).norm()) < 1e-4


@pytest.mark.parametrize("method", ["lora", "full"])
def test_in_bf16_twenty_steps_are_the_same_within_the_noise_of_the_plain_run(
    wide_folder: Path, make_plan: MakePlan, method: str
) -> None:
    """That is how far it strays itself from the trajectory in fp32; two roundings that differ stray by as much."""
    changes = tuned(method, r=4) if method == "lora" else tuned(method)

    def run(dtype: str) -> list[float]:
        plan = make_plan(wide_folder, dtype=dtype, **changes)
        return losses_of(TorchBackend(plan), 20, learning_rate=rate_of(plan))

    ours = run("bfloat16")
    with switched_off():
        plain, exact = run("bfloat16"), run("float32")

    def strays(losses: list[float]) -> float:
        return statistics.fmean((loss - right) ** 2 for loss, right in zip(losses, exact, strict=True)) ** 0.5

    assert strays(ours) <= 1.5 * strays(plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_resuming_at_step_ten_is_bit_identical_with_kernels_on(
    wide_folder: Path, make_plan: MakePlan, tmp_path: Path, dtype: str, method: str
) -> None:
    settings = {"r": 4} if method == "lora" else {}
    plan = make_plan(wide_folder, dtype=dtype, adapter={"name": method, "settings": settings}, family=method)
    straight = TorchBackend(plan)
    losses_of(straight, 10)
    straight.save(tmp_path)
    wanted = losses_of(straight, 10)
    resumed = TorchBackend(plan)
    assert resumed._policy.fused
    resumed.load(tmp_path)
    assert losses_of(resumed, 10) == wanted
    assert torch.equal(weights_of(resumed), weights_of(straight))


@pytest.mark.parametrize("recompute", ["mlp", "layer"])
def test_what_is_computed_again_changes_no_bit_of_a_trajectory(
    wide_folder: Path, make_plan: MakePlan, recompute: str
) -> None:
    backends = [TorchBackend(make_plan(wide_folder, recompute=policy)) for policy in ("none", recompute)]
    assert losses_of(backends[0], 3) == losses_of(backends[1], 3)
    assert torch.equal(weights_of(backends[0]), weights_of(backends[1]))


def test_adapters_of_odd_rank_have_their_own_gradients_in_bf16(wide_folder: Path, make_plan: MakePlan) -> None:
    """Their rows are of odd width: no two bf16 rows then begin at the same part of a 32-bit word."""
    segments = make_segments(8, vocab=512)
    for r in (3, 4):
        plan = make_plan(wide_folder, dtype="bfloat16", adapter={"name": "lora", "settings": {"r": r}})
        backend = TorchBackend(plan)
        wake_adapters(backend)
        found = our_gradients(backend, segments, micro_tokens=64)
        assert cosine(found, plain_gradients(backend, wide_folder, segments)) > 0.998, f"rank {r}"


def test_a_model_that_refuses_to_be_packed_is_trained_one_segment_at_a_time(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    """transformers' gated delta rule says so itself where its own package is not installed."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    config = Qwen3_5TextConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, **heads, **linear,
        layer_types=["linear_attention", "full_attention"], tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3_5ForCausalLM(config).save_pretrained(tmp_path)
    backend = TorchBackend(make_plan(tmp_path))
    assert any("packing is off: it refuses it" in warning for warning in backend.warnings)
    wake_adapters(backend)
    segments = make_segments(4, vocab=512)
    found = our_gradients(backend, segments, micro_tokens=10_000)
    assert relative_error(found, plain_gradients(backend, tmp_path, segments)) < 1e-5
    (batch,) = pack(segments, micro_tokens=10_000)
    longer = filled(batch, batch.num_tokens + 3, segment_step=8)  # with empty segments at its end
    apart, same = (backend.forward_backward(each, sft, sft.Config(), 10.0, grad=False) for each in (batch, longer))
    assert apart.loss == pytest.approx(same.loss, rel=1e-6)


def test_layers_that_a_method_does_not_take_are_told(tmp_path: Path, make_plan: MakePlan) -> None:
    """PEFT refuses LoRA at the products of a state-space layer, which "all-linear" takes in."""
    from transformers import FalconH1Config, FalconH1ForCausalLM

    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    mamba = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
    config = FalconH1Config(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=1, **heads, **mamba
    )  # fmt: skip
    FalconH1ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="lora does not attach to FalconH1ForCausalLM"):
        TorchBackend(make_plan(tmp_path))


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "Olmo2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_another_build_is_trained_as_before_and_it_is_said(
    tmp_path: Path, make_plan: MakePlan, family: str, dtype: str
) -> None:
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    if family == "GPT2":
        sizes = {
            "vocab_size": 512,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
        }
    torch.manual_seed(0)
    config = operator.attrgetter(f"{family}Config")(transformers)(**sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    backend = TorchBackend(make_plan(tmp_path, dtype=dtype))
    assert any("hand-written layers are off" in warning for warning in backend.warnings)
    (batch,) = pack(make_segments(8, vocab=512), micro_tokens=10_000)
    assert backend.forward_backward(batch, sft, sft.Config(), 10.0).loss > 0
