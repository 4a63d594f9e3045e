"""The torch backend against plain Hugging Face in fp32: gradients, trajectories, and checks that trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor.adapters import family_of
from sartor.backends.ranks import Alone, Place
from sartor.backends.torch import TorchBackend
from sartor.chat import open_renderer
from sartor.data.pack import Segment, pack
from sartor.data.prepare import tokenise
from sartor.errors import ModelError, NumericsError
from sartor.objectives import sft
from sartor.ops import attention
from sartor.plan import Adam
from sartor.types import Source, Text

from .conftest import MakePlan, cosine, make_segments, our_gradients, plain_gradients, relative_error, wake_adapters


@pytest.fixture
def segments() -> list[Segment]:
    return make_segments(8)


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
    """On real text, with adapters that were trained for a step: at B = 0 half of the gradients would vanish."""
    folder = changed(smollm2_folder, tmp_path / "shallow", num_hidden_layers=LAYERS)
    backend = TorchBackend(make_plan(folder, dtype="bfloat16", adapter={"name": "lora", "settings": {"r": 16}}))
    assert backend.warnings == ()
    passages = general_text(smollm2_folder)
    for batch in pack(passages[:1], micro_tokens=1024):
        backend.forward_backward(batch, sft, sft.Config(), sft.weight(batch))
        backend.step(Adam(learning_rate=6e-4))
    found = our_gradients(backend, passages[2:3], micro_tokens=1024)
    assert cosine(found, plain_gradients(backend, folder, passages[2:3])) > 0.999


#: Letters of a passage, and layers of the model: products in bf16 are ten times slower than others where the processor
#: has none.
LETTERS, LAYERS = 120, 6


def changed(folder: Path, made: Path, **settings: Any) -> Path:
    """The same weights under another configuration: with fewer layers they are a model's first ones."""
    made.mkdir()
    for file in folder.iterdir():
        (made / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (made / "config.json").unlink()
    (made / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")
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


def windowed(folder: Path, window: int, **sizes: int) -> Any:
    """A small model whose layers see so many tokens back, written to a folder."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=window, tie_word_embeddings=True, **sizes,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_model_with_a_sliding_window_takes_the_slow_path(tmp_path: Path, make_plan: MakePlan) -> None:
    windowed(tmp_path, 4)
    backend = TorchBackend(make_plan(tmp_path))
    assert "sliding window" in backend.warnings[0]


@pytest.mark.parametrize("method", ["dora", "lst", "lets"])
def test_rows_longer_than_a_sliding_window_go_one_by_one_through_the_models_own_attention(
    tmp_path: Path, make_plan: MakePlan, method: str
) -> None:
    """The window is longer than what the check of packing tries, and the method is none of the hand-written layers."""
    plain = windowed(tmp_path, 24, head_dim=32)
    long = [Segment(f"row {row}", (row, *range(40)), (*range(40), row), (1.0,) * 41) for row in (3, 4)]
    settings = family_of(method).Config(**family_of(method).PRESETS[method].settings).model_dump(mode="json")
    plan = make_plan(tmp_path, adapter={"name": method, "settings": settings})
    backend = TorchBackend(plan.model_copy(update={"max_length": 41}), examples=pack(long, micro_tokens=128))
    said = any("rows of up to 41 tokens reach beyond a sliding window of 24" in each for each in backend.warnings)
    assert said != backend._policy.fused, "the hand-written layers know windows"
    with torch.no_grad():
        logits = [plain(input_ids=torch.tensor([row.tokens])).logits[0] for row in long]
        wanted = sum(
            float(torch.nn.functional.cross_entropy(found, torch.tensor(row.targets), reduction="sum"))
            for found, row in zip(logits, long, strict=True)
        )
    batches = pack(long, micro_tokens=128)
    found = sum(backend.forward_backward(batch, sft, sft.Config(), 1.0, grad=False).loss for batch in batches)
    assert found == pytest.approx(wanted, rel=1e-5), "a new adapter changes nothing"
    short = TorchBackend(plan.model_copy(update={"max_length": 24}), examples=pack(long[:1], micro_tokens=128))
    assert not any("packing is off" in each for each in short.warnings)


@pytest.mark.parametrize("kernels", [True, False])
def test_the_bases_own_dropout_is_off_and_that_is_said(
    tiny_folder: Path, tmp_path: Path, make_plan: MakePlan, segments: list[Segment], kernels: bool
) -> None:
    folder = changed(tiny_folder, tmp_path / "dropping", attention_dropout=0.1)
    method = {"name": "lora", "settings": {"r": 4}} if kernels else {"name": "dora", "settings": {"use_dora": True}}
    backend = TorchBackend(make_plan(folder, adapter=method))
    assert [warning for warning in backend.warnings if "own dropout (0.1) is off" in warning]
    assert backend._policy.fused == kernels
    wake_adapters(backend)
    found = our_gradients(backend, segments, micro_tokens=64)
    without = TorchBackend(make_plan(tiny_folder, adapter=method))
    wake_adapters(without)
    assert found.keys() == (wanted := our_gradients(without, segments, micro_tokens=64)).keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_head_with_a_soft_cap_is_refused_in_words(tmp_path: Path, make_plan: MakePlan) -> None:
    """Its attention has one too, which neither flat attention nor torch's own knows."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    torch.manual_seed(3)
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model.get_input_embeddings().weight.data.mul_(100.0)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="head is not one plain matrix product"):
        TorchBackend(make_plan(tmp_path))


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


def test_where_nothing_is_learned_nothing_is_dropped(
    tiny_folder: Path, make_plan: MakePlan, segments: list[Segment]
) -> None:
    """A dev loss with dropout would be another one at each evaluation, and draw the numbers of the next step."""
    losses = []
    for dropout in (0.0, 0.5):
        adapter = {"name": "lora", "settings": {"r": 4, "dropout": dropout}}
        backend = TorchBackend(make_plan(tiny_folder, adapter=adapter))
        wake_adapters(backend)
        batches, state = pack(segments, micro_tokens=64), torch.get_rng_state()
        for _ in range(2):
            sums = [backend.forward_backward(batch, sft, sft.Config(), 1.0, grad=False) for batch in batches]
            losses.append(sum(part.loss for part in sums))
        assert torch.equal(state, torch.get_rng_state())
        trained = [backend.forward_backward(batch, sft, sft.Config(), 1.0).loss for batch in batches]
        assert (abs(sum(trained) - losses[-1]) > 1e-3) == (dropout > 0)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_each_rank_drops_out_by_itself_from_the_same_weights(tiny_folder: Path, make_plan: MakePlan) -> None:
    class Second(Alone):
        place = Place(rank=1, size=2, local_rank=1, local_size=2)

    weights, drawn = [], []
    for ranks in (Alone(), Second()):
        backend = TorchBackend(make_plan(tiny_folder), ranks)
        weights.append(backend._updates.masters)
        drawn.append(torch.get_rng_state())
    assert all(torch.equal(item, weights[1][name]) for name, item in weights[0].items())
    assert not torch.equal(*drawn)
