"""AdaMix: routes, their mean, two coupled passes, and the published counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, RobertaConfig, RobertaModel

from sartor.adapters import adamix
from sartor.adapters.adamix import Config
from sartor.adapters.wrapping import adamix as layers
from sartor.backends.padded import PaddedBackend
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.hub import shape
from sartor.objectives import sft
from sartor.ops.consistency import between, plain_divergence
from sartor.plan import Choice, ModelChoice, Plan

from ..padded_bases import write_t5  # noqa: TID252 - the tests are no package

IDS = torch.tensor([[3, 1, 4, 1, 5, 9]])
ROBERTA_LARGE = RobertaConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def small() -> Any:
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return AutoModelForCausalLM.from_config(config)


@torch.no_grad()
def wake(model: Any) -> Any:
    draw = torch.Generator().manual_seed(11)
    for item in model.parameters():
        if item.requires_grad:
            item.add_(0.1 * torch.randn(item.shape, generator=draw))
    return model


def attached(**settings: Any) -> Any:
    return wake(adamix.attach(small(), Config(**settings)))


# ---- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "base", "size", "experts", "published"),
    [
        (RobertaModel, ROBERTA_LARGE, 16, 4, 1_992_192),
        (RobertaModel, ROBERTA_LARGE, 16, 1, 811_392),
        (BertModel, BertConfig(), 48, 1, 894_528),
    ],
)
def test_the_published_counts(kind: Any, base: Any, size: int, experts: int, published: int) -> None:
    """In training, and with one expert, which is what is exported (arXiv 2205.12410, tables 1 and 2)."""
    with torch.device("meta"):
        model = adamix.attach(kind(base), Config(size=size, experts=experts))
    assert sum(item.numel() for item in model.parameters() if item.requires_grad) == published


def test_an_export_holds_what_is_counted_for_one_expert(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adamix.attach(AutoModelForCausalLM.from_pretrained(tiny_folder), Config())
    adamix.export(model, tmp_path)
    held = sum(item.numel() for item in load_file(tmp_path / "adapter_model.safetensors").values())
    assert held == adamix.count(shape(tiny_folder), Config(experts=1)) < adamix.count(shape(tiny_folder), Config())


# ---- routes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """Has the next experts drawn be these, again and again."""

    def follow(route: list[int]) -> None:
        given: Iterator[int] = itertools.cycle(route)
        monkeypatch.setattr(layers, "draw", lambda num_experts: next(given))

    return follow


def test_the_mean_over_all_routes_of_linear_experts_is_the_merged_adapter(routed: Callable[[list[int]], None]) -> None:
    torch.manual_seed(3)
    down, up, x = layers.Experts(4, 12, 5), layers.Experts(4, 5, 12), torch.randn(7, 12)
    for item in (*down.parameters(), *up.parameters()):
        torch.nn.init.normal_(item)
    outputs = []
    for route in itertools.product(range(4), repeat=2):
        routed(list(route))
        outputs.append(up(down(x)))
    merged = up.eval()(down.eval()(x))
    assert torch.allclose(torch.stack(outputs).mean(0), merged, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs[0], merged, rtol=1e-2, atol=1e-2)


def test_a_seed_decides_the_routes() -> None:
    model = attached(share_up=False).train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(torch.stack([model(input_ids=IDS).logits.detach() for _ in range(3)]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][0], found[0][1])


def test_without_gradients_nothing_is_drawn() -> None:
    model = attached().train()
    before = torch.get_rng_state()
    with torch.no_grad():
        quiet = model(input_ids=IDS).logits
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(quiet, model.eval()(input_ids=IDS).logits)


def test_experts_that_are_not_drawn_get_a_gradient_of_zero(routed: Callable[[list[int]], None]) -> None:
    model = attached().train()
    routed([2])
    model(input_ids=IDS).logits.sum().backward()
    for name, item in model.named_parameters():
        if "adapter_down" in name:
            assert item.grad is not None
            assert [bool(part.any()) for part in item.grad] == [False, False, True, False]


# ---- two passes ------------------------------------------------------------------------------------------------------


def segments() -> list[Segment]:
    draw = torch.Generator().manual_seed(8)
    made = []
    for length in (9, 14, 6):
        ids = torch.randint(49152, (length + 1,), generator=draw).tolist()
        weights = (0.0, 0.0, *([1.0] * (length - 3)), 0.5)
        made.append(Segment(row=f"row {length}", tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=weights))
    return made


def opened(folder: Path, make_plan: Callable[..., Plan], **settings: Any) -> TorchBackend:
    choice = Choice(name="adamix", settings=Config(**settings).model_dump())
    backend = TorchBackend(make_plan(folder, adapter=choice, family="adamix"))
    wake(backend._model)
    backend._refresh()
    return backend


def test_gradients_are_those_of_two_plain_passes(
    tiny_folder: Path, make_plan: Callable[..., Plan], routed: Callable[[list[int]], None]
) -> None:
    """A flat batch has one route a pass: the plain passes, one example at a time, take the same two."""
    first, second = [0, 3], [2, 1]  # a down-projection of each of two layers
    backend = opened(tiny_folder, make_plan, consistency=0.7)
    (batch,) = pack(segments(), micro_tokens=64)
    weight = sft.weight(batch)
    routed(first + second)
    sums = backend.forward_backward(batch, sft, sft.Config(), weight)
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model = adamix.attach(plain, Config()).train()
    wanted = {name: item for name, item in model.named_parameters() if item.requires_grad}
    for name, item in wanted.items():
        item.data.copy_(backend._updates.masters[name])
    task, apart = torch.zeros(()), torch.zeros(())
    for item in segments():
        tokens, weights = torch.tensor([item.tokens]), torch.tensor(item.weights)
        routed(first + second)
        one, two = (plain.base_model(input_ids=tokens).last_hidden_state[0] for _ in range(2))
        losses = F.cross_entropy(plain.lm_head(one), torch.tensor(item.targets), reduction="none")
        task = task + (losses * weights).sum()
        apart = apart + (plain_divergence(one, two, plain.lm_head.weight) * weights).sum()
    ((task + 0.7 * apart) / weight).backward()
    assert sums.loss == pytest.approx(float(task), rel=1e-5)
    assert sums.metrics["consistency"] == pytest.approx(float(apart), rel=1e-4)
    assert float(apart) > 0
    for name, item in wanted.items():
        found = backend._updates.masters[name].grad
        assert float((found - item.grad).norm() / item.grad.norm()) < 1e-5, name


def test_evaluation_is_one_pass_of_the_merged_adapter(tiny_folder: Path, make_plan: Callable[..., Plan]) -> None:
    backend = opened(tiny_folder, make_plan)
    (batch,) = pack(segments(), micro_tokens=64)
    before = torch.get_rng_state()
    sums = backend.forward_backward(batch, sft, sft.Config(), 1.0, grad=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(sums.metrics) == {}
    merged = 0.0
    model = adamix.attach(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), Config()).eval()
    model.load_state_dict(backend._updates.masters, strict=False)
    for item in segments():
        found = model(input_ids=torch.tensor([item.tokens])).logits[0].detach()
        losses = F.cross_entropy(found, torch.tensor(item.targets), reduction="none")
        merged += float((losses * torch.tensor(item.weights)).sum())
    assert sums.loss == pytest.approx(merged, rel=1e-5)


def test_without_consistency_there_is_one_pass(
    tiny_folder: Path, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(layers, "draw", lambda num_experts: drawn.append(0) or 0)
    for consistency, passes in ((0.0, 1), (1.0, 2)):
        backend = opened(tiny_folder, make_plan, consistency=consistency)
        drawn.clear()
        backend.forward_backward(pack(segments(), micro_tokens=64)[0], sft, sft.Config(), 1.0)
        assert len(drawn) == 2 * passes


def test_a_run_goes_on_bit_by_bit(tiny_folder: Path, make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(tiny_folder)

    def advance(backend: TorchBackend, steps: range) -> list[tuple[float, float, float]]:
        told = []
        for step in steps:
            for batch in pack(segments(), micro_tokens=16):
                sums = backend.forward_backward(batch, sft, sft.Config(), 20.0)
            told.append((sums.loss, sums.metrics["consistency"], backend.step(plan.adam(step))))
        return told

    one = opened(tiny_folder, make_plan)
    advance(one, range(2))
    one.save(tmp_path)
    onward = advance(one, range(2, 4))
    other = opened(tiny_folder, make_plan)
    other.load(tmp_path)
    assert advance(other, range(2, 4)) == onward
    assert all(torch.equal(item, other._updates.masters[name]) for name, item in one._updates.masters.items())


def test_an_encoder_decoder_takes_two_passes_as_well(
    tmp_path: Path, make_plan: Callable[..., Plan], routed: Callable[[list[int]], None]
) -> None:
    first, second = [0, 1, 2, 3], [3, 2, 2, 0]  # of four feed-forward layers
    chosen = {"name": "tiny", "path": str(write_t5(tmp_path)), "revision": "local", "digest": "0", "dtype": "float32"}
    plan = make_plan(
        model=ModelChoice(**chosen, template={}, context=64, form="seq2seq"),
        backend="padded",
        adapter=Choice(name="adamix", settings=Config().model_dump()),
        family="adamix",
    )
    backend = PaddedBackend(plan)
    wake(backend._model)
    (batch,) = pack([Segment("row", (4, 5, 6, 0, 7), (5, 6, 7, 7, 3), (0.0, 0.0, 0.0, 1.0, 1.0))], micro_tokens=64)
    routed(first + second)
    sums = backend.forward_backward(batch, sft, sft.Config(), 2.0)
    routed(first + second)
    given = {"input_ids": torch.tensor([[4, 5, 6]]), "decoder_input_ids": torch.tensor([[0, 7]])}
    one, two = (torch.log_softmax(backend._model(**given).logits[0], dim=-1) for _ in range(2))
    assert sums.loss == pytest.approx(float(F.nll_loss(one, torch.tensor([7, 3]), reduction="sum")), rel=1e-5)
    assert sums.metrics["consistency"] == pytest.approx(float(between(one, two).sum()), rel=1e-4)
    assert sums.metrics["consistency"] > 0
    assert all(item.grad is not None for item in backend._updates.masters.values())
    assert dict(backend.forward_backward(batch, sft, sft.Config(), 2.0, grad=False).metrics) == {}
