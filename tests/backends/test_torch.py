"""The torch backend against plain Hugging Face in fp32: gradients, trajectories, and checks that trip."""

from __future__ import annotations

import json
import operator
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sartor.backends.ranks import Alone, Place, idle
from sartor.backends.torch import TorchBackend
from sartor.chat import open_renderer
from sartor.data.fold import fold
from sartor.data.pack import Segment, pack
from sartor.data.prepare import tokenise
from sartor.errors import ModelError, NumericsError
from sartor.objectives import sft
from sartor.ops import attention, forest_attention, native
from sartor.ops.forest_attention import separate
from sartor.plan import Adam, Plan
from sartor.types import Source, Text

MakePlan = Callable[..., Plan]


@pytest.fixture
def segments() -> list[Segment]:
    return make_segments(8)


def make_segments(count: int, *, longest: int = 30, vocab: int = 49152) -> list[Segment]:
    """Random segments of different lengths; about half of their tokens are trained, never the first two."""
    draw = random.Random(11)
    made = []
    for number in range(count):
        length = draw.randint(8, longest)
        ids = [draw.randrange(vocab) for _ in range(length + 1)]
        weights = [0.0 if place < 2 else float(draw.random() < 0.6) for place in range(length)]
        weights[-1] = 1.0
        made.append(
            Segment(row=f"row {number}", tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=tuple(weights))
        )
    return made


def wake_adapters(backend: TorchBackend, scale: float = 0.05) -> None:
    """Give B random values: at B = 0 half of the gradients vanish, and a wrong one would hide."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in backend._updates.masters.items():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    backend._refresh()


def our_gradients(backend: TorchBackend, segments: Sequence[Segment], **packing: Any) -> dict[str, torch.Tensor]:
    batches = pack(segments, **packing)
    weight = sum(sft.weight(batch) for batch in batches)
    for batch in batches:
        backend.forward_backward(batch, sft, sft.Config(), weight)
    return {name: item.grad.double() for name, item in backend._updates.masters.items() if item.grad is not None}


def plain_gradients(backend: TorchBackend, folder: Path, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
    """One example at a time through stock PEFT and stock attention in fp32, loss summed and divided once."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    rank = next(item.shape[0] for name, item in backend._updates.masters.items() if "lora_A" in name)
    model = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    model.train()
    parameters = {name: item for name, item in model.named_parameters() if item.requires_grad}
    with torch.no_grad():
        for name, item in backend._updates.masters.items():
            parameters[name].copy_(item)
    weight = sum(sum(item.weights) for item in segments)
    for item in segments:
        logits = model(input_ids=torch.tensor([item.tokens])).logits[0]
        losses = F.cross_entropy(logits, torch.tensor(item.targets), reduction="none")
        ((losses * torch.tensor(item.weights)).sum() / weight).backward()
    return {name: item.grad.double() for name, item in parameters.items() if item.grad is not None}


def relative_error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


def distance(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Of the whole gradients, as a share of their length."""
    apart = torch.cat([(found[name].double() - wanted[name].double()).flatten() for name in wanted])
    return float(apart.norm() / torch.cat([item.double().flatten() for item in wanted.values()]).norm())


def cosine(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    a = torch.cat([found[name].flatten() for name in sorted(wanted)])
    b = torch.cat([wanted[name].flatten() for name in sorted(wanted)])
    return float(F.cosine_similarity(a, b, dim=0))


def test_packed_gradients_equal_plain_ones_in_fp32(
    tiny_folder: Path, make_plan: MakePlan, segments: list[Segment]
) -> None:
    backend = TorchBackend(make_plan(tiny_folder))
    assert backend.warnings == ()
    wake_adapters(backend)
    found = our_gradients(backend, segments, micro_tokens=64)
    assert relative_error(found, plain_gradients(backend, tiny_folder, segments)) < 1e-5


def test_real_model_bf16_gradients_point_where_fp32_ones_do(
    smollm2_folder: Path, tmp_path: Path, make_plan: MakePlan
) -> None:
    """On real text, with adapters that were trained for some steps: at B = 0 half of the gradients would vanish."""
    folder = shallow(smollm2_folder, tmp_path / "shallow")
    backend = TorchBackend(make_plan(folder, dtype="bfloat16", adapter={"name": "lora", "settings": {"r": 16}}))
    assert backend.warnings == ()
    passages = general_text(smollm2_folder)
    for start in (0, 2, 4):
        for batch in pack(passages[start : start + 2], micro_tokens=1024):
            backend.forward_backward(batch, sft, sft.Config(), sft.weight(batch))
        backend.step(Adam(learning_rate=2e-4))
    found = our_gradients(backend, passages[6:8], micro_tokens=1024)
    assert cosine(found, plain_gradients(backend, folder, passages[6:8])) > 0.999


#: Letters of a passage, and layers of the model: products in bf16 are ten times slower than others where the processor
#: has none.
LETTERS, LAYERS = 300, 6


def shallow(folder: Path, made: Path) -> Path:
    """A real model's first layers, and all that stands around them."""
    made.mkdir()
    for file in folder.iterdir():
        (made / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (made / "config.json").unlink()
    (made / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}), encoding="utf-8")
    return made


def general_text(folder: Path) -> list[Segment]:
    from importlib import resources

    renderer = open_renderer(folder)
    texts = resources.files("sartor").joinpath("resources/general.txt").read_text("utf-8").split("\n\n")[:8]
    examples = [
        Text(source=Source(file="general.txt", line=index), text=text[:LETTERS]) for index, text in enumerate(texts)
    ]
    return [segment for example in examples for segment in tokenise(example, renderer).segments]


def test_micro_batches_of_any_size_give_the_same_trajectory(
    tiny_folder: Path, make_plan: MakePlan, segments: list[Segment]
) -> None:
    losses: dict[int, list[float]] = {}
    weights: dict[int, torch.Tensor] = {}
    for size in (1, 2, 4, 8):
        backend = TorchBackend(make_plan(tiny_folder, optimizer="sgd"))
        wake_adapters(backend)
        losses[size] = []
        for _ in range(5):
            batches = pack(segments, micro_tokens=10_000, max_segments=size)
            assert len(batches) == 8 // size
            weight = sum(sft.weight(batch) for batch in batches)
            sums = [backend.forward_backward(batch, sft, sft.Config(), weight) for batch in batches]
            backend.step(Adam(learning_rate=0.05))
            losses[size].append(sum(part.loss for part in sums) / weight)
        weights[size] = torch.cat([item.detach().flatten() for item in backend._updates.masters.values()])
    assert losses[1][-1] < losses[1][0]
    for size in (2, 4, 8):
        assert losses[size] == pytest.approx(losses[1], rel=1e-5)
        assert float((weights[size] - weights[1]).abs().max()) < 1e-6


def test_a_planted_leak_trips_the_self_check_and_the_slow_path_is_right(
    tiny_folder: Path, make_plan: MakePlan, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaky(
        module: Any, query: Any, key: Any, value: Any, mask: Any, *, cu_seq_lens_q: Any = None, **rest: Any
    ) -> Any:
        whole = torch.tensor([0, query.shape[2]])  # one segment of all: the second sees the first
        return attention.flat_attention(module, query, key, value, mask, cu_seq_lens_q=whole, **rest)

    monkeypatch.setattr(attention, "register", lambda: attention.AttentionInterface.register(attention.NAME, leaky))
    backend = TorchBackend(make_plan(tiny_folder))
    assert any("moved another segment" in warning for warning in backend.warnings)
    assert any("hand-written layers are off" in warning for warning in backend.warnings)
    wake_adapters(backend)
    found = our_gradients(backend, segments, micro_tokens=64)
    assert relative_error(found, plain_gradients(backend, tiny_folder, segments)) < 1e-5


def test_a_model_with_a_sliding_window_takes_the_slow_path(
    tmp_path: Path, make_plan: MakePlan, segments: list[Segment]
) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4, tie_word_embeddings=True,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    backend = TorchBackend(make_plan(tmp_path))
    assert "sliding window" in backend.warnings[0]


def test_a_non_finite_loss_stops_before_the_update_and_names_the_row(
    tiny_folder: Path, make_plan: MakePlan, segments: list[Segment]
) -> None:
    backend = TorchBackend(make_plan(tiny_folder))
    before = {name: item.detach().clone() for name, item in backend._updates.masters.items()}
    poisoned = Segment(
        "tickets.jsonl:7", segments[0].tokens, segments[0].targets, (float("inf"),) * len(segments[0].weights)
    )
    for batch in pack([*segments[1:], poisoned], micro_tokens=64):
        backend.forward_backward(batch, sft, sft.Config(), 100.0)
    with pytest.raises(NumericsError, match=r"not finite; rows of this step: tickets\.jsonl:7$"):
        backend.step(Adam(learning_rate=0.1))
    for name, item in backend._updates.masters.items():
        assert torch.equal(item, before[name])
        assert item.grad is None


def test_saving_and_loading_changes_nothing(
    tiny_folder: Path, tmp_path: Path, make_plan: MakePlan, segments: list[Segment]
) -> None:
    def advance(backend: TorchBackend, steps: int) -> torch.Tensor:
        for _ in range(steps):
            batches = pack(segments, micro_tokens=64)
            for batch in batches:
                backend.forward_backward(batch, sft, sft.Config(), 50.0)
            backend.step(Adam(learning_rate=1e-2))
        return torch.cat([item.detach().flatten() for item in backend._updates.masters.values()])

    straight = TorchBackend(make_plan(tiny_folder))
    advance(straight, 2)
    straight.save(tmp_path)
    wanted = advance(straight, 3)
    resumed = TorchBackend(make_plan(tiny_folder))
    resumed.load(tmp_path)
    assert torch.equal(advance(resumed, 3), wanted)


def test_without_grad_the_loss_is_the_same_and_no_gradient_is_left(
    tiny_folder: Path, make_plan: MakePlan, segments: list[Segment]
) -> None:
    backend = TorchBackend(make_plan(tiny_folder))
    (batch,) = pack(segments, micro_tokens=10_000)
    quiet = backend.forward_backward(batch, sft, sft.Config(), 1.0, grad=False)
    assert all(item.grad is None for item in backend._updates.masters.values())
    assert quiet.loss == pytest.approx(backend.forward_backward(batch, sft, sft.Config(), 1.0).loss, rel=1e-6)


# ---- hand-written layers with their kernels --------------------------------------------------------------------------


def test_a_leak_in_the_hand_written_layers_stops_the_run(
    tiny_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted behind the checks that compare layers one by one, so that only the check of packing can see it."""
    monkeypatch.setattr(attention, "find_leak", lambda forward, vocab_size: "a change moved another segment")
    with pytest.raises(ModelError, match="hand-written layers let segments see each other: a change moved"):
        TorchBackend(make_plan(tiny_folder))


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with heads of 32, for which there are kernels; the tiny one's heads of 8 take the plain twins."""
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


def losses_of(backend: TorchBackend, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        batches = pack(make_segments(8, vocab=512), micro_tokens=64)
        weight = sum(sft.weight(batch) for batch in batches)
        sums = [backend.forward_backward(batch, sft, sft.Config(), weight) for batch in batches]
        backend.step(Adam(learning_rate=2e-3, clip=1.0))
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


def test_twenty_steps_are_the_same_with_the_kernels_and_without(wide_folder: Path, make_plan: MakePlan) -> None:
    ours = TorchBackend(make_plan(wide_folder))
    found = losses_of(ours, 20)
    with switched_off():
        plain = TorchBackend(make_plan(wide_folder))
        assert any("SARTOR_NATIVE=0" in warning for warning in plain.warnings)
        assert not plain._policy.fused
        wanted = losses_of(plain, 20)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found[-1] < 0.7 * found[0]
    assert float((weights_of(ours) - weights_of(plain)).norm() / weights_of(plain).norm()) < 1e-4


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
